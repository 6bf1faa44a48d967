"""Who may look at a preview: the bearer of a token or of the cookie that it was exchanged for, or everybody."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import h11

from boxkeep_server.control.keys import Keys
from boxkeep_server.control.previews import Previews
from boxkeep_server.gateway.heads import (
    COOKIES,
    TOKEN_HEADER,
    asks_for_socket,
    cookies_in,
    text,
    token_in,
    without_token,
)
from boxkeep_server.gateway.refusals import Refusal, no_entry
from boxkeep_server.model.errors import PermissionDenied, Unauthenticated
from boxkeep_server.model.previews import Place, PreviewUrls
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.model.scopes import Scope
from boxkeep_server.web.auth import check_scope
from boxkeep_server.web.tokens import SESSION_MS, Grant, Purpose, Tokens

EVERYBODY: Final = "preview"
"""In whose name it happens what a visitor without a key brings about."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What somebody may look at, and by which key; without one because the port is open to everybody."""

    place: Place
    organisation: str
    key_id: str | None

    @property
    def actor(self) -> str:
        """In whose name a visit happens."""
        return self.key_id or EVERYBODY


class Entrance:
    """Decides."""

    def __init__(self, keys: Keys, tokens: Tokens, previews: Previews, urls: PreviewUrls) -> None:
        self._keys = keys
        self._tokens = tokens
        self._previews = previews
        self._urls = urls

    async def admit(self, place: Place, request: h11.Request) -> tuple[Admission, Sandbox]:
        """Whoever asks, and the sandbox.

        Raises:
            Refusal: there is no right to look, or nothing to look at, or a browser has to ask again with a cookie.
        """
        for token, purposes in self._presented(place, request):
            admission = await self._by_token(place, token, purposes)
            if admission is not None:
                if _shows_its_address(request):
                    raise self._exchange(admission, request)
                return admission, await self._sandbox(admission)
        admission = await self._as_anybody(place)
        if admission is None:
            raise no_entry()
        return admission, await self._sandbox(admission)

    async def holds(self, admission: Admission) -> bool:
        """Whether a right to look is one still."""
        if admission.key_id is None:
            return admission.place.port in await self._previews.public(admission.place.sandbox)
        try:
            check_scope(await self._keys.caller_of(admission.key_id), Scope.EXEC)
        except (Unauthenticated, PermissionDenied):
            return False
        return True

    def _presented(self, place: Place, request: h11.Request) -> Iterator[tuple[str, tuple[Purpose, ...]]]:
        """The tokens in a request, each with what it may be for."""
        yield token_in(request.target), (Purpose.PREVIEW,)
        yield text(request, TOKEN_HEADER), (Purpose.PREVIEW, Purpose.PREVIEW_SESSION)
        if not self._from_elsewhere(place, request):
            for name, value in cookies_in(request):
                if name in COOKIES:
                    yield value, (Purpose.PREVIEW_SESSION,)

    def _from_elsewhere(self, place: Place, request: h11.Request) -> bool:
        """Whether another site's page has made a browser send this request with its cookie; a visit by a link, or a
        page of the same sandbox, is none of that."""
        origin = text(request, b"origin")
        if origin:
            return not self._is_of(place, origin)
        site, mode = text(request, b"sec-fetch-site"), text(request, b"sec-fetch-mode")
        if site in ("", "none", "same-origin") or mode == "navigate":
            return False
        return not self._is_of(place, text(request, b"referer"))

    def _is_of(self, place: Place, url: str) -> bool:
        try:
            found = self._urls.place(urlsplit(url).netloc)
        except ValueError:
            return False
        return found is not None and found.sandbox == place.sandbox

    async def _by_token(self, place: Place, token: str, purposes: tuple[Purpose, ...]) -> Admission | None:
        grant = self._grant(token, purposes) if token else None
        if grant is None or (grant.sandbox, grant.bound) != (place.sandbox, str(place.port)):
            return None
        admission = Admission(place, grant.organisation, grant.key_id)
        return admission if await self.holds(admission) else None

    def _grant(self, token: str, purposes: tuple[Purpose, ...]) -> Grant | None:
        for purpose in purposes:
            try:
                return self._tokens.read(token, purpose)
            except Unauthenticated:
                continue
        return None

    async def _as_anybody(self, place: Place) -> Admission | None:
        if place.port not in await self._previews.public(place.sandbox):
            return None
        sandbox = await self._previews.sandbox(place.sandbox)
        return None if sandbox is None else Admission(place, sandbox.organisation, None)

    async def _sandbox(self, admission: Admission) -> Sandbox:
        sandbox = await self._previews.sandbox(admission.place.sandbox)
        if sandbox is None or sandbox.organisation != admission.organisation:
            raise no_entry()
        return sandbox

    def _exchange(self, admission: Admission, request: h11.Request) -> Refusal:
        """Send a browser to the address without its token, with a cookie instead."""
        place = admission.place
        cookie, _ = self._tokens.sign(
            admission.organisation,
            place.sandbox,
            Purpose.PREVIEW_SESSION,
            admission.key_id or "",
            str(place.port),
        )
        framed = text(request, b"sec-fetch-dest") == "iframe" and text(request, b"sec-fetch-site") == "cross-site"
        name = COOKIES[0] if self._urls.secure else COOKIES[1]
        kind = "SameSite=None; Partitioned" if framed else "SameSite=Lax"
        secure = "; Secure" if self._urls.secure or framed else ""
        return Refusal(
            302,
            "The preview is on its way",
            "The token of this address was exchanged for a cookie.",
            headers={
                "Location": self._urls.of(place) + without_token(request.target).decode("latin-1"),
                "Set-Cookie": f"{name}={cookie}; Path=/; Max-Age={SESSION_MS // 1000}; HttpOnly; {kind}{secure}",
                "Referrer-Policy": "no-referrer",
            },
        )


def _shows_its_address(request: h11.Request) -> bool:
    """Whether the token is in an address that somebody sees: a page's, in a browser."""
    page = request.method in (b"GET", b"HEAD") and "text/html" in text(request, b"accept")
    return page and bool(token_in(request.target)) and not asks_for_socket(request)
