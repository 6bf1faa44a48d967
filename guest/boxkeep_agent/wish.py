"""What an agent is to be, as the control plane has wished it: one JSON object."""

import json
from dataclasses import dataclass
from typing import Final

AGENT: Final = "build"


class BadWish(ValueError):
    """The wish cannot be understood; the sentence says why."""


@dataclass(frozen=True)
class Wish:
    """Who of opencode's agents works where a prompt names none; where it works; whether the sandbox has a browser, and
    whether a person may take that over."""

    agent: str
    workspace: str
    browser: bool
    person: bool


def read_wish(text: bytes) -> Wish:
    """The wish that a line says.

    Raises:
        BadWish
    """
    try:
        said = json.loads(text)
        return Wish(
            agent=str(said.get("agent") or AGENT),
            workspace=str(said["workspace"]),
            browser=bool(said["browser"]),
            person=bool(said["person"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadWish(f"the wish cannot be understood: {error!r}") from error
