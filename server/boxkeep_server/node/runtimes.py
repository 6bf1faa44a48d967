"""One driver for both OCI runtimes, by their command line."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from boxkeep_server.model.ids import is_id
from boxkeep_server.model.node_api import Isolation

_COMMAND_TIMEOUT_S: Final = 60.0
_MEMORY_TIMEOUT_S: Final = 600.0
_MESSAGE_BYTES: Final = 4096
_RUNSC_FLAGS: Final = (
    "--platform=systrap",
    "--network=sandbox",
    # Else writes stay in an overlay of gVisor's own and never reach the machine's disk.
    "--overlay2=none",
    # Else a connected socket forbids a checkpoint.
    "--net-disconnect-ok=true",
    # What is mounted beside the root never changes or is the machine's alone: no asking the host for what is known.
    "--file-access-mounts=exclusive",
    # gVisor's own kernel applies the seccomp section of the config, else it is ignored.
    "--oci-seccomp",
)
# A mount namespace of the command's own in which /proc/sys is the directory given.
_UNDER_OTHER_PROC_SYS: Final = (
    "unshare",
    "--mount",
    "--propagation",
    "slave",
    "sh",
    "-c",
    'mount --bind "$0" /proc/sys && exec "$@"',
)
# Writes a word into a file once the command has succeeded, whether or not the node lives to see it.
_AND_MARK: Final = ("sh", "-c", 'mark=$0 word=$1; shift; "$@" && printf %s "$word" >"$mark"')


class RuntimeFailed(Exception):
    """A runtime refused or failed; the sentence carries what it said."""


@dataclass(frozen=True)
class Runtime:
    """An OCI runtime: its binary, the directory it keeps state in, the flags before every verb.

    `proc_sys` is the directory that stands for /proc/sys where a sandbox is set up, where that is needed.
    """

    isolation: Isolation
    binary: Path
    root: Path
    flags: tuple[str, ...] = field(default=())
    proc_sys: Path | None = None

    async def create(self, machine: str, bundle: Path, pid_file: Path, output: int) -> None:
        """Set a machine up without running anything in it. `output` takes what its PID 1 writes."""
        await self._set_up("create", machine, bundle, "--pid-file", str(pid_file), output=output)

    async def start(self, machine: str) -> None:
        """Run the PID 1 of a machine that was created."""
        await self._call(self._prefix(), "start", machine)

    async def run(self, machine: str, bundle: Path, pid_file: Path, output: int) -> None:
        """`create` and `start` in one."""
        await self._set_up("run", machine, bundle, "--detach", "--pid-file", str(pid_file), output=output)

    async def state(self, machine: str) -> dict[str, Any] | None:
        """What the runtime knows of a machine, None when nothing."""
        try:
            answer = json.loads(await self._call((), "state", machine))
        except (RuntimeFailed, ValueError):
            return None
        return answer if isinstance(answer, dict) else None

    async def delete(self, machine: str) -> None:
        """Kill a machine and remove what the runtime made for it; it must be known to the runtime."""
        await self._call((), "delete", "--force", machine)

    def forget(self, machine: str) -> None:
        """Remove what the runtime keeps of a machine whose processes and cgroup are gone. May be repeated.

        Not its own `delete`: that needs a state it can read, and waits until somebody has reaped the dead.
        """
        for trace in self._traces(machine):
            if trace.is_dir():
                shutil.rmtree(trace, ignore_errors=True)
            else:
                trace.unlink(missing_ok=True)

    async def halt(self, machine: str) -> None:
        """Have nothing run in a machine, whose own kernel goes on to answer the runtime: under runsc. May be repeated.

        Raises:
            RuntimeFailed
        """
        try:
            await self._call((), "pause", machine)
        except RuntimeFailed:
            if not await self.halted(machine):
                raise

    async def halted(self, machine: str) -> bool:
        """Whether a machine was halted."""
        state = await self.state(machine)
        return state is not None and state.get("status") == "paused"

    async def go_on(self, machine: str) -> None:
        """Take `halt` back.

        Raises:
            RuntimeFailed: it is not halted, or does not go on.
        """
        await self._call((), "resume", machine)

    async def write_memory(self, machine: str, image: Path, mark: Path, word: str) -> None:
        """Write the memory of a halted machine into the directory `image`, and leave the machine as it is.

        Once all is written the file `mark` says `word`, also when this process was killed meanwhile.

        Raises:
            RuntimeFailed: it cannot.
        """
        arguments = ("checkpoint", "--leave-running", f"--image-path={image}", *self._image_flags(), machine)
        await self._call((*_AND_MARK, str(mark), word), *arguments, within_s=_MEMORY_TIMEOUT_S)

    async def restore(self, machine: str, bundle: Path, pid_file: Path, image: Path, output: int) -> None:
        """A machine that goes on from the memory in `image`."""
        options = ("--detach", f"--image-path={image}", "--pid-file", str(pid_file))
        await self._set_up("restore", machine, bundle, *options, output=output)

    def machines(self) -> list[str]:
        """The ids of every machine that the runtime has a trace of."""
        if not self.root.is_dir():
            return []
        return sorted({name for name in map(_stem, self.root.iterdir()) if is_id(name)})

    async def version(self) -> str:
        """The runtime's version, as it says itself."""
        said = (await self._call((), "--version")).split()
        return said[2] if len(said) > 2 else "unknown"

    def _traces(self, machine: str) -> list[Path]:
        if not self.root.is_dir():
            return []
        return [path for path in self.root.iterdir() if _stem(path) == machine]

    def _image_flags(self) -> tuple[str, ...]:
        return ("--compression=none", "--direct") if self.isolation == "runsc" else ()

    def _prefix(self) -> tuple[str, ...]:
        return (*_UNDER_OTHER_PROC_SYS, str(self.proc_sys)) if self.proc_sys else ()

    async def _set_up(self, verb: str, machine: str, bundle: Path, *options: str, output: int) -> None:
        arguments = (verb, "--bundle", str(bundle), *options, machine)
        await self._call(self._prefix(), *arguments, log=bundle / "runtime.log", output=output)

    async def _call(
        self,
        prefix: Sequence[str],
        *arguments: str,
        log: Path | None = None,
        output: int | None = None,
        within_s: float = _COMMAND_TIMEOUT_S,
    ) -> str:
        """Run the runtime; with `output` its standard streams go to the machine, and errors come by `log`."""
        logging = ("--log", str(log), "--log-format", "json") if log else ()
        argv = (*prefix, str(self.binary), "--root", str(self.root), *self.flags, *logging, *arguments)
        stream = asyncio.subprocess.PIPE if output is None else output
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=stream, stderr=stream
        )
        try:
            async with asyncio.timeout(within_s):
                said, complaint = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            reason = _last_message(log) if log else (complaint or b"").decode(errors="replace")[-_MESSAGE_BYTES:]
            raise RuntimeFailed(f"{self.binary.name} {arguments[0]}: {reason.strip() or process.returncode}")
        return (said or b"").decode(errors="replace")


def runc(binary: Path, run: Path) -> Runtime:
    """The fast tier."""
    return Runtime("runc", binary, run / "runc")


def runsc(binary: Path, run: Path, proc_sys: Path | None) -> Runtime:
    """The strong tier: gVisor on its systrap platform with a network stack of its own."""
    return Runtime("runsc", binary, run / "runsc", _RUNSC_FLAGS, proc_sys)


def make_proc_sys(directory: Path) -> Path:
    """A directory that stands for /proc/sys and holds the one value that runsc reads there."""
    value = Path("/proc/sys/vm/mmap_min_addr").read_text()
    (directory / "vm").mkdir(parents=True, exist_ok=True)
    (directory / "vm" / "mmap_min_addr").write_text(value)
    return directory


def _stem(path: Path) -> str:
    """The machine that a file in a runtime's directory belongs to, going by the names that runc and runsc give."""
    return path.name.removeprefix("runsc-").partition("_")[0].partition(".")[0]


def _last_message(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace")[-_MESSAGE_BYTES:].strip().splitlines()
        return str(json.loads(lines[-1])["msg"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""
