"""A control plane and a node of an instance of their own, started from the tree as an operator would, and taken down.

What the environment says besides the instance: `TEST_CACHE` (where built images and runsc are kept from run to run),
`TEST_KEEP_LOGS` (a directory that gets the services' logs, each instance's in one of its own).
"""

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import httpx

from tests.clients import Api, eventually
from tests.ingredients import CACHE, TREE, images, runsc_binary
from tests.instances import OWN, free_port
from tests.leftovers import leftovers
from tests.service_logs import follow

ACCOUNT = "boxkeep"
UP_S = 180.0


@dataclass
class Service:
    """A running instance. Every start is a process of its own that can be killed and started again."""

    instance: str
    subnet: str
    root: Path
    tree: Path
    account: str
    port: int = field(default_factory=free_port)
    preview_port: int = field(default_factory=free_port)
    settings: dict[str, str] = field(default_factory=dict)
    packages: tuple[Path, ...] = ()
    """Directories that come first where its processes look for Python's modules."""
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    clients: list[Api] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def lib(self) -> Path:
        """The instance's data directory."""
        return self.root / "lib" / self.instance

    @property
    def logs(self) -> Path:
        """Where both services' own output goes."""
        return self.root / "log" / self.instance

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The variables that make a command of ours mean this instance."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BOXKEEP_", "PYTEST_"))}
        packages = (
            *self.packages,
            *(self.tree / package for package in ("sdk", "server", "guest")),
            self.root / "metadata",
        )
        return {
            **kept,
            "PATH": f"{CACHE / 'bin'}{os.pathsep}{kept['PATH']}",
            "PYTHONPATH": os.pathsep.join(str(package) for package in packages),
            "PYTHONDONTWRITEBYTECODE": "1",
            "BOXKEEP_INSTANCE": self.instance,
            "BOXKEEP_ACCOUNT": self.account,
            "BOXKEEP_LIB_ROOT": str(self.root / "lib"),
            "BOXKEEP_RUN_ROOT": str(self.root / "run"),
            "BOXKEEP_LOG_ROOT": str(self.root / "log"),
            "BOXKEEP_CONTROL__PORT": str(self.port),
            "BOXKEEP_CONTROL__PREVIEW_PORT": str(self.preview_port),
            "BOXKEEP_CONTROL__RATE_LIMITS": "false",
            "BOXKEEP_CONTROL__WEBHOOK_NETWORKS": '["127.0.0.0/8"]',
            "BOXKEEP_NODE__SUBNET": f'"{self.subnet}"',
            "BOXKEEP_NODE__DISK_GIB": "24",
            "BOXKEEP_NODE__MACHINE_DISK_GIB": "4",
            "BOXKEEP_NODE__MACHINE_MEMORY_MIB": "1024",
            "BOXKEEP_NODE__SLOTS": "64",
            "BOXKEEP_NODE__WARM": '{"base/runc" = 1, "base/runsc" = 1}',
            "BOXKEEP_NODE__IMAGES": str(CACHE / "images"),
            **self.settings,
            **(more or {}),
        }

    def command(self, *words: str, check: bool = True, within_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run `boxkeep …` of this instance to its end."""
        return subprocess.run(
            [sys.executable, "-m", "boxkeep.cli", *words],
            env=self.environment(),
            cwd="/",
            capture_output=True,
            text=True,
            check=check,
            timeout=within_s,
        )

    def start(self, name: str, more: Mapping[str, str] | None = None) -> None:
        """Start `serve` or `node`; it is not waited for."""
        self.logs.mkdir(parents=True, exist_ok=True)
        follow(self.logs / f"{name}.out")
        with (self.logs / f"{name}.out").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "boxkeep.cli", name],
                env=self.environment(more),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """kill -9 one of the services and wait until it is gone."""
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def stop(self, name: str) -> None:
        """Ask one of the services to stop, and see it do so by itself."""
        process = self.running.pop(name)
        process.terminate()
        try:
            code = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{name} did not stop within 30 s of SIGTERM:\n{self.tail()}") from None
        assert code in (0, -signal.SIGTERM), f"{name} ended with {code}:\n{self.tail()}"

    def restart(self, *names: str) -> None:
        """kill -9 these services, start them again and wait until they answer."""
        for name in names:
            self.kill(name)
        for name in names:
            self.start(name)
        self.wait_ready()

    def lose_the_node(self) -> None:
        """All that the node has is lost; a new one comes in its place. What the control plane has stays."""
        for name in ("serve", "node"):
            self.stop(name)
        self.command("down", within_s=180)
        for path in self.lib.iterdir():
            if path.name != "control":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in ("node", "serve"):
            self.start(name)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until the API says that it is ready to make sandboxes."""

        def look() -> bool:
            for name, process in self.running.items():
                assert process.poll() is None, f"{name} ended with {process.returncode}:\n{self.tail()}"
            with contextlib.suppress(httpx.TransportError):
                # Reading all certificates anew each time would take the processor from those who are to become ready.
                return httpx.get(f"{self.url}/readyz", timeout=5, verify=False).status_code == 200
            return False

        try:
            eventually("/readyz to answer 200", look, UP_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from error

    def tail(self, most: int = 6000) -> str:
        """The end of what each service wrote."""
        files = sorted(self.logs.glob("*.out"))
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-most:]}" for file in files)

    def key(self, organisation: str, plan: str = "unlimited", *scopes: str) -> str:
        """A new key of an organisation, which is made when it is not there."""
        words = [word for scope in scopes for word in ("--scope", scope)]
        return self.command("keys", "create", "--org", organisation, "--plan", plan, *words).stdout.strip()

    def api(self, organisation: str, plan: str = "unlimited", *scopes: str) -> Api:
        """A client with a new key; closed with the service."""
        client = Api(self.url, self.key(organisation, plan, *scopes))
        self.clients.append(client)
        return client

    def revoke(self, client: Api) -> None:
        """Revoke a client's key by the command line."""
        listed = self.command("keys", "list").stdout.splitlines()
        (line,) = [line for line in listed if client.key is not None and f"…{client.key[-4:]} " in line]
        self.command("keys", "revoke", line.split()[0])

    def leaks(self) -> dict[str, list[str]]:
        """What `boxkeep doctor --leaks` counts, by kind; kinds without any are left out."""
        told = self.command("doctor", "--leaks", "--json", check=False)
        try:
            listed = json.loads(told.stdout)["leaks"]
        except (ValueError, KeyError) as error:
            raise AssertionError(f"doctor --leaks said: {told.stdout}\n{told.stderr}") from error
        return {leak["kind"]: leak["items"] for leak in listed if leak["items"]}

    def wait_clean(self, within_s: float = 30.0) -> None:
        """Wait until nothing is counted as a leak."""
        seen: dict[str, list[str]] = {}

        def look() -> bool:
            seen.clear()
            seen.update(self.leaks())
            return not seen

        try:
            eventually("no leaks", look, within_s, 0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}: {seen}") from error

    def left(self) -> dict[str, list[str]]:
        """What the kernel still holds of this instance; the dead have five seconds to be buried by the host's init."""
        until = time.monotonic() + 5
        while (found := leftovers(self.instance, (self.root,))) and time.monotonic() < until:
            time.sleep(0.1)
        return found

    def take_down(self) -> None:
        """End every sandbox, stop both services and take the node's things out of the kernel."""
        for client in self.clients:
            client.close()
        for name in list(self.running):
            self.stop(name)
        self.command("down", within_s=180)


def readable_tree(account: str, copies: Path) -> Path:
    """The tree, or a copy of it below `copies` where the account may not read this one."""
    probe = subprocess.run(
        ["setpriv", f"--reuid={account}", "--clear-groups", "test", "-r", str(TREE / "server/boxkeep_server")],
        check=False,
    )
    if probe.returncode == 0:
        return TREE
    for package in ("sdk", "server", "guest"):
        shutil.copytree(TREE / package, copies / package, ignore=shutil.ignore_patterns("__pycache__"))
    return copies


@contextlib.contextmanager
def account() -> Iterator[str]:
    """The account of the control plane: the one of an installed Boxkeep, else one made for as long as this lasts."""
    if _is_account(ACCOUNT):
        yield ACCOUNT
        return
    made = f"{ACCOUNT}-test"
    with Path(tempfile.gettempdir(), f"{made}.lock").open("w") as users:
        while not _exists_for(made, users):
            fcntl.flock(users, fcntl.LOCK_EX)
            if not _is_account(made):
                subprocess.run(["useradd", "--system", "--user-group", "--no-create-home", made], check=True)
        try:
            yield made
        finally:
            with contextlib.suppress(BlockingIOError):  # another test run has it still
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                subprocess.run(["userdel", made], check=False)


def _exists_for(name: str, users: TextIO) -> bool:
    """Whether there is this account, which then stays for as long as `users` is held."""
    fcntl.flock(users, fcntl.LOCK_SH)
    return _is_account(name)


def _is_account(name: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False


@contextlib.contextmanager
def running_service(
    settings: Mapping[str, str] | None = None, beside: str = "", packages: tuple[Path, ...] = ()
) -> Iterator[Service]:
    """A service that is up and, at the end, gone without a trace. `settings` are `BOXKEEP_…` variables; `beside` is a
    letter for one that runs beside the others of a test run; `packages` come first on the path of its processes."""
    instance = OWN.beside(beside) if beside else OWN
    root = Path("/var/lib/boxkeep-test") / instance.name
    with only_one(instance.name), account() as name:
        service = Service(instance.name, instance.subnet, root, TREE, name)
        service.settings.update(settings or {})
        service.packages = packages
        _begin_afresh(service)
        service.tree = readable_tree(name, root / "tree")
        try:
            prepare(service)
            service.start("node")
            service.start("serve")
            service.wait_ready()
            yield service
            service.take_down()
            left = service.left()
            assert not left, f"left behind by the instance: {left}"
        finally:
            _give_logs(service)
            _make_sure(service)
            _clear(service)


def _begin_afresh(service: Service) -> None:
    """Take down what a run that was killed has left, and begin with empty directories."""
    if service.root.exists():
        _make_sure(service)
        assert not service.left(), f"an earlier run left: {service.left()}"
        shutil.rmtree(service.root)
    service.root.mkdir(parents=True)


def prepare(service: Service) -> None:
    """Directories as an installation has them, and the images, built once and kept."""
    for directory in ("lib", "run", "log"):
        (service.root / directory / service.instance).mkdir(parents=True, mode=0o711)
    CACHE.mkdir(parents=True, exist_ok=True)
    assert runsc_binary(), "no runsc could be had: tests are for both isolations"
    _describe_packages(service)
    images()


def _describe_packages(service: Service) -> None:
    """What installing the server would write about it, so that `boxkeep` finds its commands in the tree."""
    project = tomllib.loads((service.tree / "server" / "pyproject.toml").read_text())["project"]
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {where}\n" for name, where in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    described = service.root / "metadata" / "boxkeep_server-0.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: boxkeep-server\nVersion: 0\n")
    (described / "entry_points.txt").write_text("\n".join(groups))


@contextlib.contextmanager
def only_one(instance: str) -> Iterator[None]:
    """Hold the machine-wide right to the instance's name; two runs wait for each other."""
    with Path(tempfile.gettempdir(), f"boxkeep-test-{instance}.lock").open("w") as lock:
        deadline = time.monotonic() + 1800
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline, f"another run holds the instance {instance}"
                time.sleep(1)
        yield


def _give_logs(service: Service) -> None:
    kept = os.environ.get("TEST_KEEP_LOGS")
    if kept is not None and service.logs.is_dir():
        shutil.copytree(service.logs, Path(kept) / service.instance, dirs_exist_ok=True)


def _make_sure(service: Service) -> None:
    """After a failure too, end what still runs of the instance, so that the next run begins clean."""
    for name in list(service.running):
        service.kill(name)
    for line in service.left().get("processes", []):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(line.split()[0]), signal.SIGKILL)
    if service.left():
        service.command("down", check=False, within_s=180)


def _clear(service: Service) -> None:
    """Remove its data: a pool takes gigabytes of the disk. The logs of the last run stay, for who looks into it, and so
    does all that the kernel still holds a part of."""
    for place in service.root.iterdir() if not service.left() else ():
        if place.name != "log":
            shutil.rmtree(place)
