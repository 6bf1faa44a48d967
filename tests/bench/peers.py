"""docker, podman, plain runc and plain runsc on the same machine in the same run, with their traces kept off the host.

The packages of docker and podman are fetched by apt and unpacked, never installed: they run in a mount namespace in
which they lie over `/usr`, and a network namespace of their own, so that neither files nor firewall of the host change.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.stopwatch import Samples, sampled
from tests.clients import eventually

PACKAGES = ("docker.io", "podman")
LIMITS = ("--network", "none", "--ulimit", "nofile=1024:20000", "--ulimit", "nproc=4096:4096")
RUNS, EXECS, WARM = 15, 60, 2
KEPT = "boxkeep-bench-kept"
OVER_USR = 'mount -t overlay overlay -o "lowerdir=$0/usr:/usr" /usr && exec tini-static -s -- "$@"'
"""tini collects what docker's and podman's helpers leave behind."""


@dataclass(frozen=True, slots=True)
class Peer:
    """What a peer took for `true` in a new container and in a running one, in ms; or why it is absent."""

    name: str
    run: tuple[float, ...] = ()
    exec: tuple[float, ...] = ()
    absent: str | None = None


def measure(rootfs: Path, runsc: str | None, work: Path) -> list[Peer]:
    """Every peer's samples; `work` is emptied first and afterwards."""
    shutil.rmtree(work, ignore_errors=True)
    packages = work / "packages"
    try:
        fetch(packages)
        argv = [sys.executable, "-m", "tests.bench.peers", str(rootfs), str(work), *([runsc] if runsc else [])]
        room = ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", OVER_USR, str(packages / "tree")]
        told = subprocess.run([*room, *argv], check=True, stdout=subprocess.PIPE, text=True).stdout
        return [Peer(**fields) for fields in json.loads(told)]
    finally:
        shutil.rmtree(work, ignore_errors=True)
        remove_cgroups()


def fetch(into: Path) -> None:
    """The packages of the peers and what of their dependencies this machine lacks, unpacked below `into`/tree."""
    archives = into / "archives"
    (archives / "partial").mkdir(parents=True)
    for package in PACKAGES:
        words = ["--no-install-recommends", "--no-remove", "--download-only", "-o", f"Dir::Cache::archives={archives}"]
        subprocess.run(["apt-get", "install", "-y", "-qq", *words, package], check=False, stdout=sys.stderr)
    tree = into / "tree"
    (tree / "usr").mkdir(parents=True)
    for archive in archives.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(archive), str(tree)], check=True)


def remove_cgroups() -> None:
    """The empty groups that docker and podman leave."""
    for name in ("docker", "libpod_parent", "boxkeep-bench-*"):
        for group in Path("/sys/fs/cgroup").glob(f"**/{name}"):
            for directory, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    Path(directory).rmdir()


def _quiet(*argv: str) -> None:
    """Run to its end; what it says goes to a file, because a container left running would hold a pipe open."""
    with tempfile.TemporaryFile() as said:
        ended = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=60)
        if ended.returncode != 0:
            said.seek(0)
            raise subprocess.CalledProcessError(ended.returncode, argv, stderr=said.read())


def _of(name: str, run: list[str], begin: list[str], execute: list[str], end: list[str]) -> Peer:
    """Time whole runs, then calls into one that was begun."""
    sampled(lambda: _quiet(*run), WARM)
    runs = sampled(lambda: _quiet(*run), RUNS)
    _quiet(*begin)
    try:
        sampled(lambda: _quiet(*execute), WARM)
        execs = sampled(lambda: _quiet(*execute), EXECS)
    finally:
        _quiet(*end)
    return Peer(name, runs.ms, execs.ms)


@contextlib.contextmanager
def _dockerd(work: Path) -> Iterator[str]:
    """A daemon that touches no firewall and makes no bridge."""
    socket = work / "docker.sock"
    where = ["--data-root", str(work / "data"), "--exec-root", str(work / "exec"), "--pidfile", str(work / "pid")]
    off = ["--iptables=false", "--ip6tables=false", "--bridge=none", "--ip-forward=false", "--ip-masq=false"]
    with (work / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(["dockerd", *where, *off, "--host", f"unix://{socket}"], stdout=log, stderr=log)
        try:
            eventually("dockerd to listen", lambda: daemon.poll() is not None or socket.exists(), 60)
            yield f"unix://{socket}"
        finally:
            daemon.terminate()
            daemon.wait(60)


def docker(rootfs: Path, work: Path) -> Peer:
    """docker run and docker exec."""
    with _dockerd(work) as host:
        tar = subprocess.Popen(["tar", "-C", str(rootfs), "--exclude=./dev", "-c", "."], stdout=subprocess.PIPE)
        base = ["docker", "--host", host]
        subprocess.run([*base, "import", "-", "bench"], stdin=tar.stdout, check=True, stdout=subprocess.DEVNULL)
        tar.wait()
        return _of(
            "docker (runc)",
            [*base, "run", "--rm", *LIMITS, "bench", "true"],
            [*base, "run", "--detach", "--name", KEPT, *LIMITS, "bench", "sleep", "3600"],
            [*base, "exec", KEPT, "true"],
            [*base, "rm", "--force", KEPT],
        )


def podman(rootfs: Path, work: Path) -> Peer:
    """podman run and podman exec, from the same tree."""
    places = ["--root", str(work / "root"), "--runroot", str(work / "run"), "--tmpdir", str(work / "tmp")]
    how = ["--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
    base = ["podman", *places, "--network-config-dir", str(work / "net"), *how]
    return _of(
        "podman (runc)",
        [*base, "run", "--rm", *LIMITS, "--rootfs", f"{rootfs}:O", "true"],
        [*base, "run", "--detach", "--name", KEPT, *LIMITS, "--rootfs", f"{rootfs}:O", "sleep", "3600"],
        [*base, "exec", KEPT, "true"],
        [*base, "rm", "--force", "--time", "0", KEPT],
    )


def plain(name: str, binary: list[str], rootfs: Path, work: Path) -> Peer:
    """An OCI runtime by itself, without network."""
    bundles = {words: _bundle(work / words[0], rootfs, list(words)) for words in (("true",), ("sleep", "3600"))}
    base = [*binary, "--root", str(work / "state")]
    kept = ["run", "--detach", "--bundle", str(bundles["sleep", "3600"]), KEPT]
    end = [*base, "delete", "--force", KEPT]
    run = [*base, "run", "--bundle", str(bundles["true",]), "boxkeep-bench-once"]
    return _of(name, run, [*base, *kept], [*base, "exec", KEPT, "true"], end)


def _bundle(directory: Path, rootfs: Path, words: list[str]) -> Path:
    directory.mkdir()
    subprocess.run(["runc", "spec"], cwd=directory, check=True)
    config = json.loads((directory / "config.json").read_text())
    config["process"] |= {"terminal": False, "args": words, "rlimits": []}
    config["root"] = {"path": str(rootfs), "readonly": True}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def measured_here(rootfs: Path, work: Path, runsc: str | None) -> list[Peer]:
    """Every peer, one after the other; one that is missing or fails says so."""
    each: dict[str, Callable[[Path], Peer]] = {
        "docker (runc)": lambda place: docker(rootfs, place),
        "podman (runc)": lambda place: podman(rootfs, place),
        "plain runc": lambda place: plain("plain runc", ["runc"], rootfs, place),
        "plain runsc": lambda place: plain(
            "plain runsc", [str(runsc), "--network=none", "--platform=systrap"], rootfs, place
        ),
    }
    found = []
    for number, (name, act) in enumerate(each.items()):
        place = work / f"peer{number}"
        place.mkdir()
        try:
            found.append(act(place))
        except FileNotFoundError as error:
            found.append(Peer(name, absent=f"{error.filename} is not on this machine"))
        except (subprocess.SubprocessError, AssertionError) as error:
            said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip()[-300:]
            found.append(Peer(name, absent=f"{error} {said}"))
    return found


def row(peer: Peer) -> str:
    """A line of the table."""
    if peer.absent is not None:
        return f"| {peer.name} | absent: {peer.absent} | |"
    return f"| {peer.name} | {Samples(tuple(peer.run))} | {Samples(tuple(peer.exec))} |"


def main() -> None:
    """Inside the namespaces: measure and print JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rootfs", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("runsc", nargs="?")
    asked = parser.parse_args()
    json.dump([asdict(peer) for peer in measured_here(asked.rootfs, asked.work, asked.runsc)], sys.stdout)


if __name__ == "__main__":
    main()
