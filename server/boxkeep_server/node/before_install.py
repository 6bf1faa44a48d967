"""Whether this host can carry an installation, asked before anything is installed: by the system's own Python.

`python3 -m boxkeep_server.node.before_install FILE INSTANCE SUBNET PORT DISKS`: what the settings in FILE say goes; it
need not be there. Prints what is not well; ends with 1 where Boxkeep cannot run, with 2 where FILE is not TOML.
"""

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from boxkeep_server.node.doctor import Wanted, examine_host
from boxkeep_server.node.doctor_ports import DEFAULT, Ports
from boxkeep_server.node.findings import render

_LIB: Final = "/var/lib/boxkeep"


def wanted(settings: Mapping[str, Any], instance: str, subnet: str, port: int, disks: str) -> Wanted:
    """What an installation is to be by its settings, as TOML has them; they are not validated yet."""
    control, node = settings.get("control", {}), settings.get("node", {})
    chosen = Ports(api=port, previews=port + 2) if not settings else DEFAULT
    return Wanted(
        instance,
        str(node.get("subnet", subnet)),
        Path(settings.get("lib_root", _LIB)) / instance,
        disks="directory" if node.get("disks", "pool" if settings else disks) == "directory" else "pool",
        ports=Ports(
            str(control.get("listen", chosen.listen)),
            _number(control.get("port"), chosen.api),
            _number(control.get("preview_port"), chosen.previews),
        ),
    )


def _number(found: Any, otherwise: int) -> int:
    return found if isinstance(found, int) and 0 < found < 1 << 16 else otherwise


def main(file: Path, instance: str, subnet: str, port: int, disks: str) -> int:
    """The program; its exit code."""
    try:
        settings = tomllib.loads(file.read_text()) if file.exists() else {}
    except tomllib.TOMLDecodeError as error:
        sys.stderr.write(f"{file} is not TOML: {error}\n")
        return 2
    unwell = [one for one in examine_host(wanted(settings, instance, subnet, port, disks)) if one.mend]
    if unwell:
        sys.stdout.write(f"{render(unwell)}\n")
    return int(any(one.fatal for one in unwell))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]))
