"""What the gateway itself answers where nothing of a sandbox can be: a page for people, JSON for programs."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from importlib import resources
from string import Template
from typing import Final

import orjson

from boxkeep_server.model.errors import BoxkeepError, LimitReached, RateLimited, TimedOut, Unavailable
from boxkeep_server.model.sandboxes import Sandbox
from boxkeep_server.model.statuses import Status
from boxkeep_server.web.errors import status_of

AGAIN_S: Final = 2
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors *"


@dataclass(slots=True)
class Refusal(Exception):
    """An answer of ours in place of the sandbox's. `again`: what is wrong may be over soon, so a page asks again."""

    status: int
    title: str
    sentence: str
    again: bool = False
    headers: Mapping[str, str] = dataclass_field(default_factory=dict)


def no_entry() -> Refusal:
    """Whoever asks has no right to be here, or what is here never was: nobody can tell which."""
    return Refusal(
        401,
        "This preview is private",
        "Its address has to come with a token, which is good for five minutes. Get a new one from whoever runs the "
        "sandbox, or by GET /v1/sandboxes/ports with an API key.",
    )


def unknown_host() -> Refusal:
    """A host name that is no preview's."""
    return Refusal(404, "There is no preview here", "A preview's host name begins with <port>-<sandbox id>.")


def nothing_listens(port: int) -> Refusal:
    """The sandbox runs, the port is shut."""
    return Refusal(
        502,
        f"Nothing listens on port {port} yet",
        f"The sandbox runs, but no program in it takes connections on port {port}.",
        again=True,
    )


def answered_wrongly() -> Refusal:
    """What the program said is no HTTP, or broke off."""
    return Refusal(502, "The program answered wrongly", "What it sent is not a whole answer in HTTP/1.1.")


def too_late() -> Refusal:
    """The program said nothing for too long."""
    return Refusal(504, "The program did not answer in time", "It took the request and then was silent for too long.")


def too_many() -> Refusal:
    """A bound on connections is reached."""
    return Refusal(503, "Too many connections", "As many requests as are allowed are under way at once.", again=True)


def bad_request(sentence: str, status: int = 400) -> Refusal:
    """The client's request is not to be passed on."""
    return Refusal(status, "The request cannot be passed on", sentence)


def not_running(sandbox: Sandbox) -> Refusal:
    """A sandbox that has nothing to be looked at now."""
    match sandbox.status:
        case Status.QUEUED | Status.ASSIGNING:
            return Refusal(503, "The sandbox is starting", "It will be here in a moment.", again=True)
        case Status.PAUSING | Status.PAUSED:
            return Refusal(503, "The sandbox is paused", "Resume it, and this page comes back.", again=True)
        case Status.READY:
            return Refusal(503, "The sandbox cannot be reached", "It will be tried again.", again=True)
        case _:
            return Refusal(410, "The sandbox has ended", "Nothing of it runs any more.")


def refusal_of(error: BoxkeepError) -> Refusal:
    """Any other error of the model."""
    match error:
        case TimedOut():
            return too_late()
        case RateLimited() | LimitReached() | Unavailable():
            return Refusal(status_of(error), "Not at this moment", f"{error.sentence}.", again=True)
        case _:
            return Refusal(status_of(error), "This did not work", f"{error.sentence}.")


def body_of(refusal: Refusal, *, for_people: bool) -> tuple[list[tuple[str, str]], bytes]:
    """The headers and the body of a refusal."""
    headers = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"), *refusal.headers.items()]
    if refusal.again:
        headers.append(("Retry-After", str(AGAIN_S)))
    if not for_people:
        return [*headers, ("Content-Type", "application/json")], orjson.dumps({"error": refusal.sentence})
    words = {"status": str(refusal.status), "title": refusal.title, "sentence": refusal.sentence}
    page = _PAGE.substitute(
        {name: html.escape(text) for name, text in words.items()},
        refresh=f'<meta http-equiv="refresh" content="{AGAIN_S}">' if refusal.again else "",
        hint='<p class="hint"><i></i>This page tries again by itself.</p>' if refusal.again else "",
    )
    return [*headers, ("Content-Type", "text/html; charset=utf-8"), ("Content-Security-Policy", _POLICY)], page.encode()


_PAGE: Final = Template(resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
