"""The viewer's page and what it loads: the same for everybody, from our own files and noVNC's."""

import mimetypes
import re
from importlib import resources
from pathlib import Path
from typing import Final

from starlette.responses import Response

from boxkeep_server.model.errors import NotBuilt, NotFound
from boxkeep_server.web.viewer.urls import PAGE_PATH

NOVNC: Final = "novnc/"
_OURS: Final = {"": "index.html", "viewer.css": "viewer.css", "viewer.js": "viewer.js"}
_THEIRS: Final = re.compile(r"(?:core|vendor)(?:/[A-Za-z0-9_-]+)*/[A-Za-z0-9_-]+\.js")
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self' ws: wss:; "
    "base-uri 'none'; form-action 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "public, max-age=300",
}


class Pages:
    """Serves files. `novnc` is the directory of that package, which is there where browsers are."""

    def __init__(self, novnc: Path) -> None:
        self._novnc = novnc

    def answer(self, path: str) -> Response:
        """The file at a path.

        Raises:
            NotFound: there is none.
            NotBuilt: this server has no browsers.
        """
        name = path.removeprefix(PAGE_PATH)
        if name.startswith(NOVNC):
            body, name = self._theirs(name.removeprefix(NOVNC)), "a.js"
        elif name in _OURS:
            name = _OURS[name]
            body = resources.files(__package__).joinpath(name).read_bytes()
        else:
            raise NotFound(f"There is nothing at {path[:200]}")
        kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0]
        return Response(body, 200, _HEADERS, kind)

    def _theirs(self, name: str) -> bytes:
        if not _THEIRS.fullmatch(name):
            raise NotFound("There is nothing here")
        try:
            return (self._novnc / name).read_bytes()
        except FileNotFoundError:
            if not self._novnc.is_dir():
                raise NotBuilt(
                    "The viewer is not available on this server: its operator builds images with browsers"
                ) from None
            raise NotFound("There is nothing here") from None
