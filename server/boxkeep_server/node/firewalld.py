"""firewalld's own way to let a link through, where it lets nobody else change its table: its zone of trusted links."""

import shutil
from typing import Final

from boxkeep_server.node import netns

TABLE: Final = "firewalld"
_COMMAND: Final = "firewall-cmd"


def runs() -> bool:
    """Whether there is a firewalld to be asked. It takes a third of a second to answer anything."""
    return shutil.which(_COMMAND) is not None


def trust(link: str) -> None:
    """Put a link into the zone of trusted ones until firewalld's next start or reload. May be repeated.

    Raises:
        CommandFailed
    """
    netns.run([_COMMAND, "--quiet", "--zone=trusted", f"--change-interface={link}"])


def forget(link: str) -> None:
    """Take a link out of that zone.

    Raises:
        CommandFailed: it was not there, or firewalld is gone.
    """
    netns.run([_COMMAND, "--quiet", "--zone=trusted", f"--remove-interface={link}"])
