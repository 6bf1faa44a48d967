"""Browsers: how a sandbox's is, where it goes, how large it is, and who looks at it."""

from typing import Annotated
from urllib.parse import urlencode

from pydantic import Field
from starlette.responses import Response

from boxkeep_server.model.browsers import Browser
from boxkeep_server.model.errors import Invalid
from boxkeep_server.model.handoffs import Handoff
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.model.scopes import Scope, permits
from boxkeep_server.web import shapes
from boxkeep_server.web.cdp import SOCKET_PATH
from boxkeep_server.web.fields import Fields, Nothing, OfSandbox, QueryFlag, SomeId, Text
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation
from boxkeep_server.web.tokens import Purpose
from boxkeep_server.web.viewer.urls import ViewerRight, viewer_url
from boxkeep_server.web.views import browser_preview, json_response

PATH = "/v1/sandboxes/preview"
Url = Annotated[Text, Field(max_length=2048, pattern="^(https?://|about:blank$)")]


class ViewerQuery(OfSandbox):
    """A sandbox, and what the person who gets the URL may do: in whose name to drive, or only to watch."""

    controller: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    read_only: QueryFlag | None = None


class StartBody(Fields):
    """A browser to be there, and what it shall show: a URL, or what listens on a port of the sandbox."""

    id: SomeId
    url: Url | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None


class NavigateBody(Fields):
    """Where the page in front is to go."""

    id: SomeId
    url: Url


class ResizeBody(Fields):
    """The new size of pages, in pixels."""

    id: SomeId
    width: Annotated[int, Field(ge=100, le=7680)]
    height: Annotated[int, Field(ge=100, le=4320)]


async def read(call: Call, query: OfSandbox, _: Nothing) -> Response:
    """How the browser is."""
    return await _shown(call, query.id)


async def start(call: Call, _: Nothing, body: StartBody) -> Response:
    """Have a browser there."""
    if body.url is not None and body.port is not None:
        raise Invalid("url and port are both given: a browser shows one of them")
    url = body.url if body.port is None else f"http://localhost:{body.port}/"
    await call.parts.browsers.start(call.caller, body.id, url)
    return await _shown(call, body.id)


async def navigate(call: Call, _: Nothing, body: NavigateBody) -> Response:
    """Go somewhere."""
    await call.parts.browsers.navigate(call.caller, body.id, body.url)
    return await _shown(call, body.id)


async def resize(call: Call, _: Nothing, body: ResizeBody) -> Response:
    """Be of another size."""
    await call.parts.browsers.resize(call.caller, body.id, body.width, body.height)
    return await _shown(call, body.id)


async def viewer(call: Call, query: ViewerQuery, _: Nothing) -> Response:
    """A URL at which a person sees the screen."""
    sandbox, _browser = await call.parts.browsers.read(call.caller, query.id)
    right = ViewerRight(query.controller or "viewer", query.read_only is not True)
    url, expires_at = viewer_url(call.parts, call.caller, sandbox.id, right)
    return json_response({"id": sandbox.id, "url": url, "readOnly": not right.may_drive, "expiresAt": expires_at})


async def _shown(call: Call, sandbox_id: str) -> Response:
    sandbox, browser = await call.parts.browsers.read(call.caller, sandbox_id)
    handoff = await call.parts.handoffs.latest(sandbox.id)
    about = {"id": sandbox.id, **browser_preview(browser, handoff), "reason": browser.reason}
    return json_response({**about, "cdpUrl": cdp_url(call, sandbox, browser)})


def paired_browser(call: Call, sandbox: Sandbox, browser: Browser, handoff: Handoff | None) -> dict[str, object]:
    """A sandbox's browser as a read of the sandbox shows it."""
    right = ViewerRight("viewer", may_drive=False)
    opens = permits(call.caller.scopes, Scope.EXEC)
    url = viewer_url(call.parts, call.caller, sandbox.id, right)[0] if opens else None
    return {
        "sessionId": f"{sandbox.id}-browser",
        "cdpUrl": cdp_url(call, sandbox, browser),
        "previewUrl": url,
        "controlMode": browser.mode,
        "controller": handoff.controller if handoff is not None and handoff.mode != "ai" else None,
        "handoffRequestedAt": handoff.requested_at if handoff is not None and handoff.open else None,
        "updatedAt": browser.updated_at,
    }


def cdp_url(call: Call, sandbox: Sandbox, browser: Browser) -> str | None:
    """The WebSocket at which the browser's protocol is spoken, with a token, for a key that may have it."""
    if browser.devtools is None or not permits(call.caller.scopes, Scope.EXEC):
        return None
    caller = call.caller
    token, _ = call.parts.tokens.sign(caller.organisation, sandbox.id, Purpose.CDP, caller.key_id, "browser")
    query = urlencode({"id": sandbox.id, "token": token})
    return f"ws{call.parts.public_url.removeprefix('http')}{SOCKET_PATH}?{query}"


_FAULTS = frozenset({404, 409, 502, 503, 504})
_ANSWERS = {200: Answer("The browser.", shapes.BrowserShape)}

OPERATIONS: tuple[AnyOperation, ...] = (
    Operation(
        method="GET",
        path=PATH,
        name="readPreview",
        summary="See how a sandbox's browser is",
        description="Playwright's `connectOverCDP` and Puppeteer's `connect` take `cdpUrl` as it is, for five minutes. "
        "It is null while the browser starts, and for a key that may not exec.",
        scope=Scope.EXEC,
        kind=CallKind.READ,
        handler=read,
        query=OfSandbox,
        body=Nothing,
        answers=_ANSWERS,
        faults=_FAULTS,
        tag="browsers",
    ),
    Operation(
        method="POST",
        path=f"{PATH}/start",
        name="startPreview",
        summary="Have a sandbox's browser there, and show something in it",
        description="The browser of a sandbox starts by itself; this waits for it, tries again where it had been given "
        "up, and shows a URL or what listens on a port of the sandbox.",
        scope=Scope.EXEC,
        kind=CallKind.EXEC,
        handler=start,
        query=Nothing,
        body=StartBody,
        answers=_ANSWERS,
        faults=_FAULTS,
        tag="browsers",
    ),
    Operation(
        method="POST",
        path=f"{PATH}/navigate",
        name="navigatePreview",
        summary="Have the page in front go to a URL",
        scope=Scope.EXEC,
        kind=CallKind.EXEC,
        handler=navigate,
        query=Nothing,
        body=NavigateBody,
        answers=_ANSWERS,
        faults=_FAULTS,
        tag="browsers",
    ),
    Operation(
        method="POST",
        path=f"{PATH}/resize",
        name="resizePreview",
        summary="Give pages another size",
        scope=Scope.EXEC,
        kind=CallKind.EXEC,
        handler=resize,
        query=Nothing,
        body=ResizeBody,
        answers=_ANSWERS,
        faults=_FAULTS,
        tag="browsers",
    ),
    Operation(
        method="GET",
        path=f"{PATH}/viewer",
        name="previewViewer",
        summary="Get the URL of a page that shows the browser's screen",
        description="The page may be opened within five minutes, also within another page. It shows who drives; with "
        "`capabilities.browser.humanInLoop` its bearer may take over, as `controller`, unless `readOnly` is true.",
        scope=Scope.EXEC,
        kind=CallKind.TERMINAL,
        handler=viewer,
        query=ViewerQuery,
        body=Nothing,
        answers={200: Answer("The URL.", shapes.ViewerShape)},
        faults=frozenset({404, 409}),
        tag="browsers",
    ),
)
