"""Builds images: a Debian by mmdebstrap, over it what each recipe adds, in archives named by their content."""

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from boxkeep_server.model.images import Layers, software_of
from boxkeep_server.node import durable, novnc
from boxkeep_server.node.host_mirrors import HostMirrors
from boxkeep_server.node.images import archive_of, current, digest_of, is_whole, layers_of, put_layers
from boxkeep_server.node.layers import BadLayer, lay, make_layer, pack, settle, unpack
from boxkeep_server.node.npm import NpmFailed, fetch
from boxkeep_server.node.recipes import Recipe, fingerprint

_CERTIFICATES: Final = Path("usr/local/share/ca-certificates")
_BUNDLE: Final = "/etc/ssl/certs/ca-certificates.crt"
_ENVIRONMENT: Final = {"SSL_CERT_FILE": _BUNDLE, "NODE_EXTRA_CA_CERTS": _BUNDLE, "PIP_CERT": _BUNDLE}
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OVERLAY: Final = "redirect_dir=off,metacopy=off,index=off"
_FORGET: Final = """
apt-get clean
rm -rf /var/lib/apt/lists/* /var/lib/dbus/machine-id
for file in /etc/machine-id /etc/hostname; do
  if [ -s $file ] || [ ! -e $file ]; then : > $file; fi
done
"""
"""What is of the build and not of the image: lists that grow old, and names that are to be each machine's own."""


class BuildFailed(Exception):
    """An image could not be built; the sentence has the last words of what failed."""


@dataclass(frozen=True)
class Builder:
    """Builds into `directory`: `<digest>.tar.zst` for each layer, `<digest>.layers` for each image, and `<name>.json`
    that names the current image and the recipe that it was made by."""

    directory: Path
    recipes: Mapping[str, Recipe]
    mirrors: HostMirrors
    say: Callable[[str], None] = field(default=lambda _: None)

    def is_current(self, name: str) -> bool:
        """Whether an image is there, made of what it would be made of now."""
        found = _read_json(self._label(name))
        digest, made_of = str(found.get("digest")), self._fingerprint(name)
        if found.get("recipe") != made_of or not is_whole(self.directory, digest):
            return False
        return layers_of(self.directory, digest).parent == self._parent(name)

    def build_all(self) -> list[str]:
        """Build what is missing, parents first; the names of those that were built.

        Raises:
            BuildFailed
        """
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        with _locked(self.directory / ".lock"):
            for left in self.directory.glob(".building-*"):
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(prefix=".building-", dir=self.directory) as scratch:
                run = _Run(self.directory, Path(scratch), self.mirrors)
                built = [name for name in self.recipes if self._ensure(name, run)]
                if any("browser" in software_of(name) for name in self.recipes):
                    with _npm_checked():
                        novnc.ensure(self.directory, Path(scratch))
                return built

    def _ensure(self, name: str, run: "_Run") -> bool:
        if self.is_current(name):
            return False
        self.say(f"{name}: building")
        began, parent = time.monotonic(), self._parent(name)
        layer = run.layer(self.recipes[name], parent)
        image = Layers((*(parent.digests if parent else ()), layer))
        put_layers(self.directory, image)
        label = {"name": name, "digest": image.digest, "recipe": self._fingerprint(name)}
        durable.replace(self._label(name), json.dumps(label).encode())
        size = archive_of(self.directory, layer).stat().st_size
        self.say(f"{name}: built in {time.monotonic() - began:.0f} s, its own layer {size >> 20} MiB")
        return True

    def _parent(self, name: str) -> Layers | None:
        """The layers of the current image that one is made over; None for one without, and where that is not there."""
        digest = current(self.directory).get(self.recipes[name].parent or "")
        return None if digest is None else layers_of(self.directory, digest)

    def _fingerprint(self, name: str) -> str:
        return fingerprint(self.recipes[name], self.recipes, self.mirrors.fingerprint())

    def _label(self, name: str) -> Path:
        return self.directory / f"{name}.json"


@dataclass
class _Run:
    """One run of the builder: trees of parents, and layers that are the same over any, are made in it once."""

    directory: Path
    scratch: Path
    mirrors: HostMirrors
    trees: dict[Layers, Path] = field(default_factory=dict)
    alike: dict[bytes, str] = field(default_factory=dict)

    def layer(self, recipe: Recipe, parent: Layers | None) -> str:
        """Build what an image adds to its parent; the digest of its archive, which is in the directory then."""
        if recipe.npm is None:
            return self._packed(recipe, parent)
        if recipe.text not in self.alike:
            self.alike[recipe.text] = self._packed(recipe, None)
        return self.alike[recipe.text]

    def _packed(self, recipe: Recipe, parent: Layers | None) -> str:
        with tempfile.TemporaryDirectory(dir=self.scratch) as scratch:
            layer = Path(scratch) / "layer"
            tree = make_layer(layer)
            if recipe.npm is not None:
                self._add_files(recipe, Path(scratch), tree)
            elif parent is None:
                self._bootstrap(recipe, tree)
                _in_tree(tree, recipe.setup)
                self._configure(tree)
            else:
                below = self._tree(parent)
                self._install(recipe, _Over(below, tree, Path(scratch)))
                settle(layer, below)
            packed = Path(scratch) / "packed"
            _checked(pack, layer, packed, alike=recipe.npm is not None)
            digest = digest_of(packed)
            packed.rename(archive_of(self.directory, digest))
            durable.flush_directory(self.directory)
        return digest

    def _tree(self, image: Layers) -> Path:
        """The tree of an image that was built, unpacked."""
        if image not in self.trees:
            place = self.scratch / image.digest
            place.mkdir(mode=0o755)
            for digest in image.digests:
                with tempfile.TemporaryDirectory(dir=self.scratch) as scratch:
                    _checked(unpack, archive_of(self.directory, digest), Path(scratch))
                    _checked(lay, Path(scratch), place)
            self.trees[image] = place
        return self.trees[image]

    def _bootstrap(self, recipe: Recipe, tree: Path) -> None:
        include = ",".join(recipe.packages)
        options = [f"--aptopt={line}" for line in self.mirrors.apt_options]
        argv = ["mmdebstrap", "--variant=minbase", "--mode=root", "--format=directory", f"--include={include}"]
        _run([*argv, *options, "", tree, *self.mirrors.apt_sources])

    @staticmethod
    def _install(recipe: Recipe, over: "_Over") -> None:
        words = " ".join(map(shlex.quote, recipe.packages))
        install = f"apt-get update -qq\napt-get install -y -qq --no-install-recommends {words}\n" if words else ""
        _in_tree(over.tree, f"{install}{recipe.setup}{_FORGET}", before=over.mounts)

    @staticmethod
    def _add_files(recipe: Recipe, scratch: Path, tree: Path) -> None:
        with _npm_checked():
            package = fetch(str(recipe.npm), scratch)
        for source, target in recipe.npm_files.items():
            place = tree / target.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package / source, place)
            place.chmod(0o755)
        for link, leads_to in recipe.links.items():
            (tree / link.lstrip("/")).symlink_to(leads_to)

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


@dataclass(frozen=True)
class _Over:
    """A tree that is seen over `below`; what is changed in it is in `upper`. Mounted where a script runs, and only
    there: a build that is killed leaves no mount."""

    below: Path
    upper: Path
    scratch: Path

    @property
    def tree(self) -> Path:
        """Where it is mounted."""
        return self.scratch / "merged"

    @property
    def mounts(self) -> str:
        """The commands that mount it, and let names be resolved in it as they are here."""
        work = self.scratch / "work"
        for directory in (work, self.tree):
            directory.mkdir(exist_ok=True)
        options = f"lowerdir={self.below},upperdir={self.upper},workdir={work},{_OVERLAY}"
        tree = shlex.quote(str(self.tree))
        return (
            f"mount -t overlay overlay -o {shlex.quote(options)} {tree}\n"
            f"mount --bind /etc/resolv.conf {tree}/etc/resolv.conf\n"
        )


def _run(argv: list[str | Path], cwd: Path | None = None) -> None:
    done = subprocess.run(argv, cwd=cwd, check=False, capture_output=True, text=True, errors="replace", close_fds=False)
    if done.returncode != 0:
        raise BuildFailed(f"{argv[0]} failed: {(done.stderr or done.stdout).strip()[-3000:]}")


@contextmanager
def _npm_checked() -> Iterator[None]:
    try:
        yield
    except NpmFailed as error:
        raise BuildFailed(str(error)) from error


def _checked(step: Callable[..., None], *arguments: Path, **options: bool) -> None:
    try:
        step(*arguments, **options)
    except subprocess.CalledProcessError as error:
        raise BuildFailed(f"{error.cmd[0]} failed: {error.stderr.decode(errors='replace').strip()[-3000:]}") from error
    except BadLayer as error:
        raise BuildFailed(str(error)) from error


def _in_tree(tree: Path, script: str, before: str = "") -> None:
    """Run a script in the tree, with its own /proc and in namespaces that end with it."""
    place = shlex.quote(str(tree))
    inside = f"{before}mount -t proc proc {place}/proc\nexec chroot {place} /bin/sh -e"
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


def _read_json(file: Path) -> dict[str, object]:
    try:
        found = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold a lock that the programs of this build hold too: after a build that was killed they may still write."""
    with file.open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
