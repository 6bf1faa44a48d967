"""Start one program: its argument vector, environment, account and standard streams; nothing of its life after."""

import errno
import fcntl
import os
import resource
import shlex
import subprocess
import termios
from typing import Any, NamedTuple

from boxkeep_guest.accounts import Account
from boxkeep_guest.errors import Refused

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CHILD_OOM_SCORE = 500
_BASHES = ("/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash")


class NotStarted(Exception):
    """The program could not be executed: its exit code by custom (126 or 127) and the sentence for its stderr."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class Streams(NamedTuple):
    """The descriptors that become the program's standard streams; `terminal` makes them its controlling terminal."""

    stdin: int
    stdout: int
    stderr: int
    terminal: bool


def argument_vector(command: str, args: list[str] | None, fixed_path: str | None) -> list[str]:
    """What to execute. Without `args` a login shell reads the line; a PATH given on purpose outlives its profile."""
    if args is not None:
        return [command, *args]
    shell = next((path for path in _BASHES if os.access(path, os.X_OK)), None)
    if shell is None:
        return ["sh", "-c", command]
    line = command if fixed_path is None else f"PATH={shlex.quote(fixed_path)}\n{command}"
    return [shell, "-lc", line]


def environment(account: Account, terminal: bool, given: dict[str, str]) -> dict[str, str]:
    """A plain environment for `account`, with `given` on top."""
    return {
        "PATH": DEFAULT_PATH,
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color" if terminal else "dumb",
        **given,
    }


def check_directory(path: str) -> None:
    """Raise Refused `bad_cwd` unless `path` is an absolute path of a directory that is there."""
    if not path.startswith("/"):
        raise Refused("bad_cwd", f"The working directory {path} is not an absolute path")
    try:
        directory = os.path.isdir(os.fsencode(path))  # noqa: PTH112 - pathlib costs start-up
    except ValueError:
        directory = False
    if not directory:
        raise Refused("bad_cwd", f"The working directory {path} is not a directory of this sandbox")


class Spawner:
    """Starts programs so that each can be told from all others: by a resource limit that means nothing else.

    Every descendant inherits the mark, whatever it does to its session, parent or environment. Children also get a
    raised OOM score while the guest keeps its own.
    """

    def __init__(self, first_mark: int) -> None:
        self._first = self._next = first_mark
        self._limit = _markable(first_mark)
        self.limit_name = b"Max realtime timeout" if self._limit == _RTTIME else b"Max file size"
        self._score_file = _open_score()
        self._own_score = _read_score(self._score_file)

    @property
    def marks(self) -> range:
        """All marks given so far."""
        return range(self._first, self._next)

    def spawn(
        self, argv: list[str], cwd: str, env: dict[str, str], account: Account, streams: Streams
    ) -> tuple[int, int]:
        """The pid of the program, a session and process group of its own, and its mark.

        Raises:
            NotStarted: it cannot be executed.
            Refused: `limit`, there is no room for another process; `bad_cwd`, the directory went away.
        """
        mark = self._next
        self._next += 1
        resource.setrlimit(self._limit, (mark, resource.getrlimit(self._limit)[1]))
        self._write_score(max(CHILD_OOM_SCORE, self._own_score))
        try:
            process = _popen(argv, cwd, env, account, streams)
        except OSError as error:
            raise _not_started(error, argv[0], cwd) from error
        finally:
            self._write_score(self._own_score)
        process.returncode = 0
        return process.pid, mark

    def _write_score(self, score: int) -> None:
        if self._score_file is None or self._own_score >= CHILD_OOM_SCORE:
            return
        try:
            os.pwrite(self._score_file, str(score).encode(), 0)
        except OSError:
            os.close(self._score_file)
            self._score_file = None


_RTTIME = 15


def _markable(mark: int) -> int:
    """The limit that can carry marks here: real-time CPU time, or file size where that one is not to be had."""
    for limit in (_RTTIME, resource.RLIMIT_FSIZE):
        try:
            resource.setrlimit(limit, (mark, resource.getrlimit(limit)[1]))
        except (ValueError, OSError):
            continue
        return limit
    return resource.RLIMIT_FSIZE


def _open_score() -> int | None:
    try:
        return os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None


def _read_score(file: int | None) -> int:
    return int(os.pread(file, 16, 0)) if file is not None else 0


def _popen(
    argv: list[str], cwd: str, env: dict[str, str], account: Account, streams: Streams
) -> "subprocess.Popen[bytes]":
    options: dict[str, Any] = {}
    if account.uid or account.gid or account.groups != [0]:
        options |= {"user": account.uid, "group": account.gid, "extra_groups": account.groups}
    if streams.terminal:
        options["preexec_fn"] = _take_terminal
    variables = {os.fsencode(key): os.fsencode(value) for key, value in env.items()}
    return subprocess.Popen(
        [os.fsencode(arg) for arg in argv],
        stdin=streams.stdin,
        stdout=streams.stdout,
        stderr=streams.stderr,
        cwd=os.fsencode(cwd),
        env=variables,
        start_new_session=True,
        close_fds=False,  # every descriptor of ours is close-on-exec; closing thousands costs
        **options,
    )


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _not_started(error: OSError, program: str, cwd: str) -> Exception:
    if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return Refused("limit", "The sandbox has no room for another process")
    if error.filename is not None and os.fsdecode(error.filename) == cwd and program != cwd:
        return Refused("bad_cwd", f"The working directory {cwd} cannot be entered")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotStarted(127, f"boxkeep: {program}: command not found\n")
    return NotStarted(126, f"boxkeep: {program}: {os.strerror(error.errno or 0)}\n")
