"""URLs of the viewer: what each lets a person do, and in whose name."""

from dataclasses import dataclass
from urllib.parse import urlencode

from boxkeep_server.web.parts import Caller, Parts
from boxkeep_server.web.tokens import Grant, Purpose

PAGE_PATH = "/viewer/"
SOCKET_PATH = "/v1/sandboxes/preview/display"
_WATCHES = "watch:"
_DRIVES = "drive:"


@dataclass(frozen=True, slots=True)
class ViewerRight:
    """What the bearer of a viewer's token may do: watch, or drive too when it is a person's turn, as `name`."""

    name: str
    may_drive: bool

    @property
    def bound(self) -> str:
        """The same as a token is bound to."""
        return f"{_DRIVES if self.may_drive else _WATCHES}{self.name}"


def right_of(grant: Grant) -> ViewerRight:
    """What a token of a viewer grants."""
    may_drive = grant.bound.startswith(_DRIVES)
    return ViewerRight(grant.bound.removeprefix(_DRIVES if may_drive else _WATCHES), may_drive)


def viewer_url(parts: Parts, caller: Caller, sandbox_id: str, right: ViewerRight) -> tuple[str, int]:
    """The signed URL of a viewer's page, and when it expires, epoch ms. Its secret part is sent to no server."""
    token, expires_at = viewer_token(parts, caller, sandbox_id, right)
    fragment = urlencode({"id": sandbox_id, "token": token})
    return f"{parts.public_url}{PAGE_PATH}#{fragment}", expires_at


def viewer_token(parts: Parts, caller: Caller, sandbox_id: str, right: ViewerRight) -> tuple[str, int]:
    """A token of a viewer, and when it expires, epoch ms."""
    return parts.tokens.sign(caller.organisation, sandbox_id, Purpose.VIEWER, caller.key_id, right.bound)
