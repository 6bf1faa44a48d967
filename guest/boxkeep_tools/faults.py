"""What can keep a tool from doing its work, in sentences for the agent that has called it.

ToolFailed
├── Away          there is no browser now
├── Held          a person is in control of it
├── Gone          the page that was spoken of is not there any more
├── Silent        the page does not answer
└── Interrupted   the page has opened a dialog, and waits for an answer to it
"""

from typing import Final

_LEFT: Final = "The page was left meanwhile, or has changed. Call browser_read for what is there now."


class ToolFailed(Exception):
    """The tool has not done what was asked; the sentence says why, and what may help."""


class Away(ToolFailed):
    """There is no browser now: it is starting, has broken, or there is none in this sandbox."""

    def __init__(self, why: str = "The browser is away: it is starting, or has just ended.") -> None:
        super().__init__(f"{why} Wait some seconds and try again.")


class Held(ToolFailed):
    """A person is in control of the browser."""

    def __init__(self) -> None:
        super().__init__(
            "A person is in control of the browser now, so nothing was done. "
            "Wait until they have given it back (try again in a minute), or go on with other work."
        )


class Gone(ToolFailed):
    """The page, or what of it was spoken of, is not there any more."""

    def __init__(self, why: str = _LEFT) -> None:
        super().__init__(why)


class Silent(ToolFailed):
    """The page does not answer in time."""

    def __init__(self) -> None:
        super().__init__("The page does not answer: its scripts keep it busy. Wait, or open another by browser_open.")


class Interrupted(ToolFailed):
    """The page has opened a dialog, and does nothing until it is answered."""

    def __init__(self) -> None:
        super().__init__("The page has opened a dialog. Answer it by browser_dialog before anything else.")
