"""What every command begins with: the settings, the right account, and sentences in place of tracebacks."""

import os
import pwd
import sys
import tomllib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from boxkeep_server.settings import Settings, read_settings

DEFAULT_FILE = Path("/etc/boxkeep/boxkeep.toml")


def fail(sentence: str, code: int = 1) -> NoReturn:
    """Say what is wrong on standard error and end."""
    sys.stderr.write(f"boxkeep: {sentence}\n")
    raise SystemExit(code)


def settings() -> Settings:
    """The settings of this command: the file that `BOXKEEP_CONFIG` names, and the environment."""
    file = Path(os.environ.get("BOXKEEP_CONFIG", DEFAULT_FILE))
    try:
        return read_settings(file)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        fail(f"the settings are wrong: {wrong}", 2)
    except tomllib.TOMLDecodeError as error:
        fail(f"{file} is not TOML: {error}", 2)
    except OSError as error:
        fail(f"the settings cannot be read: {error}", 2)


def need_root(command: str) -> None:
    """End with a sentence unless this is root."""
    if os.geteuid() != 0:
        fail(f"`boxkeep {command}` changes the machine and has to be run as root")


def become_account(read: Settings) -> None:
    """As root, give up all rights but those of the service's account, for good; else stay who we are."""
    if os.geteuid() != 0:
        return
    try:
        account = pwd.getpwnam(read.account)
    except KeyError:
        fail(f"there is no account {read.account!r}; `make up` makes it, or: useradd --system {read.account}")
    for directory in (read.lib / "control", read.log):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chown(directory, account.pw_uid, account.pw_gid)
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    os.environ["HOME"] = str(read.lib / "control")


def as_account(read: Settings, work: Callable[[], None]) -> None:
    """Do work in a child process that is the service's account.

    Raises:
        SystemExit: it failed; it has said why.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        become_account(read)
        code = 1
        try:
            work()
            sys.stdout.flush()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001 - the child's last words: nobody above it would say them
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise SystemExit(os.waitstatus_to_exitcode(status))
