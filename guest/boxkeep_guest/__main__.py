"""Start the guest: `python3 -I -S -B <directory>/boxkeep_guest/__main__.py <bootfile>`."""

import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # whatever is imported here is not from the archive
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

MODULES = "modules"


class Archive:
    """Imports from one file that a bundle has beside the package: all modules, compiled, by name.

    Within gVisor to look for, open and read nearly two hundred files takes a quarter of the guest's start. What the
    file lacks is imported from where it lies.
    """

    def __init__(self, file: str) -> None:
        with open(file, "rb") as packed:  # noqa: PTH123 - pathlib is not there yet
            self._modules: dict[str, tuple[bool, bytes]] = marshal.loads(packed.read())  # noqa: S302 - of our bundle

    def find_spec(
        self, name: str, _path: "Sequence[str] | None" = None, _target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """See `importlib.abc.MetaPathFinder`."""
        if name not in self._modules:
            return None
        kind: type[ModuleSpec] = type(sys.__spec__)
        return kind(name, self, is_package=self._modules[name][0])  # type: ignore[arg-type]

    def create_module(self, _spec: "ModuleSpec") -> None:
        """See `importlib.abc.Loader`."""
        return

    def exec_module(self, module: "ModuleType") -> None:
        """See `importlib.abc.Loader`. Each once: its bytes are given up."""
        _, code = self._modules.pop(module.__name__)
        exec(marshal.loads(code), module.__dict__)  # noqa: S102, S302 - of our bundle


def _prepare_imports() -> None:
    """Let the package be found beside this file, and keep OpenSSL out: it costs start-up and memory."""
    home = __file__.rpartition("/")[0].rpartition("/")[0] or "."
    sys.path.insert(0, home)
    for unwanted in ("ssl", "_hashlib"):
        sys.modules[unwanted] = None  # type: ignore[assignment]
    try:
        sys.meta_path.insert(0, Archive(f"{home}/{MODULES}"))
    except FileNotFoundError:
        return  # run from its sources


if __name__ == "__main__":
    _prepare_imports()
    from boxkeep_guest.program import main

    sys.exit(main(sys.argv[1:]))
