"""The tool that asks for a person: they take the browser over, do what only they can do, and give it back."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from boxkeep_tools.companion import Companion
from boxkeep_tools.faults import ToolFailed
from boxkeep_tools.tools import Arguments, Content, Tool, text
from boxkeep_tools.words import clean

REASONS: Final = ("mfa", "captcha", "approval", "login_failed", "ambiguous_ui", "file_download", "custom")
_ASKED_S: Final = 25 * 3600.0
_MESSAGE_MOST: Final = 2000
_WORDS_MOST: Final = 4000
_DESCRIPTION: Final = """\
Ask a person to take over the browser, and wait until they have given it back. Use it for what you cannot or must not do
yourself: a second factor, a captcha, a login that fails, an approval before something that cannot be undone. They see
the same browser and page as you. It may take from minutes to a day; call it once and wait. Say in the message, in full
sentences, what you need and how they know that it is done."""
_OUTCOMES: Final = {
    "completed": "A person took over the browser, and has given it back: it is yours again. "
    "Pages may have changed: call browser_read before you go on.",
    "cancelled": "The request was cancelled: nobody has done what you asked for. Do not assume that it is done.",
    "expired": "Nobody has done it in time, and the request has expired. Go on without it, or say that it is open.",
}


def person_tool(companion: Companion, let_go: Callable[[], Awaitable[None]]) -> Tool:
    """The tool. `let_go` has our own hands off the browser first, so that its dialogs are a person's."""

    async def run(arguments: Arguments) -> Sequence[Content]:
        await let_go()
        reason, message = arguments["reason"], arguments["message"]
        return [text(_told(await companion.ask(_ASKED_S, ask="person", reason=reason, message=message)))]

    return Tool(
        "ask_person",
        "Ask a person",
        _DESCRIPTION,
        run,
        {
            "reason": {"type": "string", "enum": list(REASONS), "description": "Why a person is needed."},
            "message": {
                "type": "string",
                "maxLength": _MESSAGE_MOST,
                "description": "What they are to do, and how they know that it is done.",
            },
        },
        ("reason", "message"),
    )


def _told(answer: dict[str, Any]) -> str:
    outcome = _OUTCOMES.get(str(answer.get("status")))
    words = [outcome or "No person can be asked.", _words(answer.get("sentence"))]
    if answer.get("note"):
        words.append(f"They say: {_words(answer['note'])}")
    told = " ".join(word for word in words if word)
    if outcome is None:
        raise ToolFailed(told)
    return told


def _words(given: Any) -> str:
    return clean(given)[:_WORDS_MOST] if isinstance(given, str) else ""
