"""The bundle of guest and companions: content-addressed, with an interpreter, it runs in any root file system."""

import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from boxkeep_server.node.elf import needed_libraries, program_interpreter

OLDEST_PYTHON = 11
PACKAGES = ("python3-minimal", "libpython3-stdlib")
_LIBRARY_DIRECTORIES = (
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib64",
    "usr/lib64",
    "lib",
    "usr/lib",
)
_FORMAT = "1"
_STARTUP_MODULES = (
    "encodings.ascii",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.utf_8",
    "stringprep",
    "traceback",
    "tokenize",
    "compileall",
    "py_compile",
)
_PROGRAMS = {"desktop": "boxkeep_desktop", "agent": "boxkeep_agent", "tools": "boxkeep_tools"}
"""The programs beside the guest, and the package of each."""
_LIBRARIES = ("h11", "wsproto")
"""What they need beside the standard library: pure Python, as it is installed here."""
_LAUNCHER = """#!/bin/sh
here=$(cd "${{0%/*}}/.." && pwd)
python=$here/py/bin/python3
exec "$here/lib/ld.so" --library-path "$here/lib" --argv0 "$python" "$python" -I -S -B \
  "$here/programs/{package}/__main__.py" "$@"
"""
_PROBE = """if True:
    import importlib, pkgutil, sys
    for unwanted in ("ssl", "_hashlib"):
        sys.modules[unwanted] = None
    sys.path[:0] = sys.argv[1:3]
    for package in map(importlib.import_module, ("boxkeep_guest", *sys.argv[3].split(","))):
        for module in pkgutil.iter_modules(package.__path__):
            if module.name != "__main__":
                importlib.import_module(package.__name__ + "." + module.name)
    import concurrent.futures.thread, _ctypes
    for name in sys.argv[4:]:
        importlib.import_module(name)
    for module in sorted(sys.modules):
        file = getattr(sys.modules[module], "__file__", None)
        if file:
            print(file)
"""
_COMPILE = """if True:
    import os, py_compile, sys
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    for root, directories, files in os.walk(sys.argv[1]):
        directories.sort()
        for name in sorted(files):
            if name.endswith(".py"):
                path = os.path.join(root, name)
                shown = "/boxkeep/" + os.path.relpath(path, sys.argv[1])
                py_compile.compile(path, dfile=shown, doraise=True, invalidation_mode=mode)
"""
_PACK = """if True:
    import marshal, os, sys
    modules = {}
    for root in sys.argv[2:]:
        for directory, directories, files in os.walk(root):
            directories.sort()
            for name in sorted(files):
                if not name.endswith(".pyc"):
                    continue
                package = os.path.relpath(os.path.dirname(directory), root).replace("/", ".").lstrip(".")
                stem = name.partition(".")[0]
                dotted = ".".join(word for word in (package, "" if stem == "__init__" else stem) if word)
                with open(os.path.join(directory, name), "rb") as file:
                    modules[dotted] = (stem == "__init__", file.read()[16:])
    with open(sys.argv[1], "wb") as packed:
        marshal.dump(modules, packed)
"""


class BundleError(Exception):
    """The bundle cannot be built from that tree; the sentence says why."""


@dataclass(frozen=True)
class Bundle:
    """A built bundle: its digest and its directory `<target>/<digest>`."""

    digest: str
    path: Path

    def command(self, mounted: str) -> list[str]:
        """The command line, but for the boot file, that runs the guest when the bundle is mounted at `mounted`."""
        python = f"{mounted}/py/bin/python3"
        loader = [f"{mounted}/lib/ld.so", "--library-path", f"{mounted}/lib", "--argv0", python]
        return [*loader, python, "-I", "-S", "-B", f"{mounted}/guest/boxkeep_guest/__main__.py"]


def build_bundle(target: Path, guest: Path, tree: Path = Path("/")) -> Bundle:
    """Build the bundle below `target` from a Debian `tree` with its Python and the `guest` package directory, which has
    those of its companions beside it.

    The same input gives the same digest; one that is there already is left alone. Only whole bundles ever appear.

    Raises:
        BundleError: the tree has no usable interpreter.
    """
    target.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=target))
    try:
        _assemble(building, guest, tree)
        _seal(building)
        digest = digest_of(building)
        place = target / digest
        if not place.exists():
            put(building, place)
        return Bundle(digest, place)
    finally:
        if building.exists():
            shutil.rmtree(building)


def make_tree(directory: Path) -> Path:
    """A Debian tree with the interpreter in `directory`, made by mmdebstrap from this machine's own apt sources.

    Raises:
        BundleError: mmdebstrap is not there or failed.
    """
    include = ",".join((*PACKAGES, "libffi8"))
    options = ["--variant=extract", f"--include={include}", "--format=directory", "--mode=root"]
    sources = [str(path) for path in apt_sources()]
    try:
        subprocess.run(["mmdebstrap", *options, "", str(directory), *sources], check=True, capture_output=True)
    except FileNotFoundError:
        raise BundleError("mmdebstrap is not installed") from None
    except subprocess.CalledProcessError as error:
        raise BundleError("mmdebstrap failed: " + error.stderr.decode(errors="replace")[-500:]) from error
    return directory


def apt_sources(apt: Path = Path("/etc/apt")) -> list[Path]:
    """The files in which this machine names its package sources."""
    listed = sorted((apt / "sources.list.d").glob("*.sources")) + sorted((apt / "sources.list.d").glob("*.list"))
    classic = apt / "sources.list"
    has_classic = classic.exists() and any(
        line.startswith("deb ") for line in classic.read_text(encoding="utf-8").splitlines()
    )
    return [classic, *listed] if has_classic else listed


def digest_of(directory: Path) -> str:
    """A digest of a tree's names, types, modes and contents."""
    total = hashlib.sha256(_FORMAT.encode())
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(status.st_mode) else ""
        total.update(f"{path.relative_to(directory)}\0{status.st_mode:o}\0{content}\n".encode())
    return total.hexdigest()


def _assemble(building: Path, guest: Path, tree: Path) -> None:
    libraries = building / "lib"
    libraries.mkdir()
    python = building / "py" / "bin" / "python3"
    python.parent.mkdir(parents=True)
    source = tree / "usr" / "bin" / python_of(tree)
    shutil.copyfile(source, python)
    python.chmod(0o755)
    shutil.copyfile(_resolve(tree, program_interpreter(source).lstrip("/")), libraries / "ld.so")
    (libraries / "ld.so").chmod(0o755)
    _copy_libraries(python, libraries, tree)
    _copy_package(guest, building / "guest")
    _copy_programs(building, guest.parent)
    _copy_modules(building, guest, tree, _used_modules(building, guest, tree))
    for part in ("py/lib", "guest", "programs"):
        _run_python(building, tree, _COMPILE, str(building / part))
    _run_python(
        building, tree, _PACK, *(str(building / part) for part in ("guest/modules", f"py/lib/{source.name}", "guest"))
    )


def python_of(tree: Path) -> str:
    """The Python of a tree, such as `python3.11`.

    Raises:
        BundleError: it has none, or one that is too old.
    """
    link = tree / "usr" / "bin" / "python3"
    name = link.readlink().name if link.is_symlink() else ""
    if not re.fullmatch(r"python3\.\d+", name) or int(name.removeprefix("python3.")) < OLDEST_PYTHON:
        raise BundleError(f"{link} is not a Python 3.{OLDEST_PYTHON} or newer, but {name or 'no link'}")
    return name


def _copy_programs(building: Path, packages: Path) -> None:
    place, launchers = building / "programs", building / "bin"
    launchers.mkdir()
    for name, package in _PROGRAMS.items():
        _copy_package(packages / package, place)
        (launchers / name).write_text(_LAUNCHER.format(package=package))
        (launchers / name).chmod(0o755)
    for name in _LIBRARIES:
        found = importlib.util.find_spec(name)
        if found is None or not found.submodule_search_locations:
            raise BundleError(f"the package {name} is not installed beside the server")
        _copy_package(Path(found.submodule_search_locations[0]), place)


def _copy_package(package: Path, directory: Path) -> None:
    """Copy a package without subpackages, with the files that it has beside its modules."""
    place = directory / package.name
    place.mkdir(parents=True)
    for file in sorted(package.iterdir()):
        if file.is_file() and file.suffix in (".py", ".xml", ".js"):
            shutil.copyfile(file, place / file.name)


def _copy_libraries(program: Path, libraries: Path, tree: Path) -> None:
    """Copy the shared libraries that `program` needs, and those that they need."""
    waiting = [program]
    while waiting:
        for name in needed_libraries(waiting.pop()):
            place = libraries / name
            if name.startswith("ld-linux") or place.exists():
                continue
            shutil.copyfile(_find_library(tree, name), place)
            place.chmod(0o755)
            waiting.append(place)


def _find_library(tree: Path, name: str) -> Path:
    for directory in _LIBRARY_DIRECTORIES:
        found = tree / directory / name
        if found.exists() or found.is_symlink():
            return _resolve(tree, f"{directory}/{name}")
    raise BundleError(f"{tree} has no library {name}")


def _resolve(tree: Path, inside: str) -> Path:
    """The file that a path within `tree` means, absolute symlinks being the tree's own."""
    at = Path(inside)
    for _ in range(40):
        real = tree / at
        parts = at.parts
        link = next((i for i in range(1, len(parts) + 1) if (tree / Path(*parts[:i])).is_symlink()), None)
        if link is None:
            if not real.is_file():
                raise BundleError(f"{tree} has no {inside}")
            return real
        head = Path(*parts[:link])
        to = (tree / head).readlink()
        to = Path(*to.parts[1:]) if to.is_absolute() else head.parent / to
        at = Path(os.path.normpath(to / Path(*parts[link:]))) if parts[link:] else Path(os.path.normpath(to))
    raise BundleError(f"{tree} has a loop of symlinks at {inside}")


def _used_modules(building: Path, guest: Path, tree: Path) -> list[Path]:
    """The files, relative to the standard library, that the guest loads when all of it is imported."""
    library = _library(tree)
    found = []
    given = (str(guest.parent), str(building / "programs"), ",".join(_PROGRAMS.values()))
    for line in _run_python(building, tree, _PROBE, *given, *_STARTUP_MODULES).splitlines():
        path = Path(line)
        if path.is_relative_to(library):
            found.append(path.relative_to(library))
    if not found:
        raise BundleError(f"the interpreter of {tree} loads no standard library from {library}")
    return found


def _library(tree: Path) -> Path:
    return tree / "usr" / "lib" / python_of(tree)


def _copy_modules(building: Path, guest: Path, tree: Path, modules: list[Path]) -> None:
    library = _library(tree)
    place = building / "py" / "lib" / library.name
    (place / "lib-dynload").mkdir(parents=True)
    for module in modules:
        copy = place / module
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_resolve(tree, str((library / module).relative_to(tree))), copy)
        if copy.suffix == ".so":
            _copy_libraries(copy, building / "lib", tree)


def _run_python(building: Path, tree: Path, program: str, *arguments: str) -> str:
    """Run a program with the tree's interpreter and whole standard library; what it prints."""
    library = _library(tree)
    paths = ":".join(str(tree / directory) for directory in _LIBRARY_DIRECTORIES if (tree / directory).is_dir())
    head = f"import sys; sys.path[:] = [{str(library)!r}, {str(library / 'lib-dynload')!r}]\n"
    loader = [str(building / "lib" / "ld.so"), "--library-path", f"{building / 'lib'}:{paths}"]
    command = [*loader, str(building / "py" / "bin" / "python3"), "-S", "-B", "-s", "-c", head + program, *arguments]
    environment = {"PYTHONHOME": str(tree / "usr"), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise BundleError("the tree's interpreter failed: " + ran.stderr[-500:])
    return ran.stdout


def _seal(building: Path) -> None:
    """Root's own, and read-only."""
    for path in (building, *building.rglob("*")):
        executable = path.is_dir() or path.stat().st_mode & 0o100
        if os.geteuid() == 0:
            os.chown(path, 0, 0)
        path.chmod(0o555 if executable else 0o444)


def put(building: Path, place: Path) -> None:
    """Move a finished bundle to its place, durably; another builder may have been first."""
    for path in building.rglob("*"):
        if path.is_file():
            _sync(path)
    try:
        building.rename(place)
    except OSError:
        if not place.exists():
            raise
    _sync(place.parent)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
