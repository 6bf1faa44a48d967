"""What the runtimes of this host are and need, found by asking and trying them."""

import asyncio
import json
import shutil
import tempfile
from pathlib import Path
from typing import Final

from boxkeep_server.node.runtimes import Runtime, RuntimeFailed, make_proc_sys, runc, runsc

_ROOT_NETWORK: Final = "root network namespace"


async def find_runc(binary: Path | None, run: Path) -> Runtime | None:
    """The host's runc, or None where there is none that answers."""
    if binary is None or not await _answers(found := runc(binary, run)):
        return None
    return found


async def find_runsc(binary: Path | None, run: Path) -> Runtime | None:
    """The host's runsc, with its workaround where it needs one; None where there is none that answers."""
    if binary is None or not await _answers(plain := runsc(binary, run, None)):
        return None
    if not await _takes_every_network_for_the_roots(plain):
        return plain
    return runsc(binary, run, make_proc_sys(run / "proc-sys"))


def on_path(name: str) -> Path | None:
    """The program of that name on PATH."""
    found = shutil.which(name)
    return Path(found) if found else None


async def _answers(runtime: Runtime) -> bool:
    try:
        await runtime.version()
    except (RuntimeFailed, OSError):
        return False
    return True


async def _takes_every_network_for_the_roots(runtime: Runtime) -> bool:
    """Whether this runsc refuses any network on this kernel.

    Some versions tell the root network namespace by files of /proc/sys that newer kernels show in all of them. Tried
    with a machine of nothing in a network namespace of its own: where the network is accepted, it is its program that
    is not found.
    """
    with tempfile.TemporaryDirectory(prefix="boxkeep-probe-") as directory:
        bundle = Path(directory)
        (bundle / "root").mkdir()
        kinds = ("pid", "ipc", "uts", "mount", "network")
        config = {
            "ociVersion": "1.0.2",
            "root": {"path": "root"},
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["/absent"], "cwd": "/"},
            "linux": {"namespaces": [{"type": kind} for kind in kinds]},
        }
        (bundle / "config.json").write_text(json.dumps(config))
        flags = ("--root", str(bundle / "state"), "--ignore-cgroups", *runtime.flags)
        process = await asyncio.create_subprocess_exec(
            str(runtime.binary),
            *flags,
            "run",
            "--bundle",
            str(bundle),
            "probe",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(30):
            said, _ = await process.communicate()
        return _ROOT_NETWORK in said.decode(errors="replace")
