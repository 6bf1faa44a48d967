"""Paths in bodies and queries: `path` as text or `pathBase64` as any bytes, absolute inside the sandbox."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from boxkeep_server.control.files import Place
from boxkeep_server.model.errors import Invalid
from boxkeep_server.web.fields import Fields, Text, decode_base64

LONGEST = 4096
WORKSPACE = "/workspace"

PathText = Annotated[Text, Field(min_length=1, max_length=LONGEST)]
PathBytes = Annotated[Text, Field(min_length=1, max_length=2 * LONGEST)]


def place_of(path: str | None, path_base64: str | None, name: str = "path", default: str | None = None) -> Place:
    """The place that a request names; relative paths begin at `/workspace`.

    Raises:
        Invalid: both or neither is given, it is too long, or the base64 is none or holds NUL.
    """
    if path is not None and path_base64 is not None:
        raise Invalid(f"{name} and {name}Base64 exclude each other")
    if path_base64 is not None:
        return Place(path_base64=_checked_bytes(path_base64, name))
    path = default if path is None else path
    if path is None:
        raise Invalid(f"{name} is required")
    if len(path.encode()) > LONGEST:
        raise Invalid(f"Invalid {name}: must have at most {LONGEST} bytes")
    return Place(path=path if path.startswith("/") else f"{WORKSPACE}/{path}")


class AtPath(Fields):
    """A path, in one of its two forms. That it is one is part of the fields' form: a 400 that comes before a 403."""

    DEFAULT: ClassVar[str | None] = None

    path: PathText | None = None
    path_base64: PathBytes | None = None

    def model_post_init(self, _: Any) -> None:
        """It names a place.

        Raises:
            Invalid: as `place` does.
        """
        assert self.place

    @property
    def place(self) -> Place:
        """The place that it names.

        Raises:
            Invalid: as `place_of`.
        """
        return place_of(self.path, self.path_base64, default=self.DEFAULT)


def _checked_bytes(text: str, name: str) -> str:
    data = decode_base64(text, f"{name}Base64")
    if not data.startswith(b"/") or b"\0" in data or len(data) > LONGEST:
        raise Invalid(f"Invalid {name}Base64: must be an absolute path of at most {LONGEST} bytes without NUL")
    return text


def bound_of(path: str | None, path_base64: str | None) -> str:
    """How a token names a path, so that one form never opens what the other names."""
    return f"b:{path_base64}" if path_base64 is not None else f"t:{path}"
