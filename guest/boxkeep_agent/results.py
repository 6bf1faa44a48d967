"""What has come of a prompt, by the messages of its session; pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from boxkeep_agent.story import FIELD_MOST, cut

ANSWER_MOST: Final = 40_000
_COUNTS: Final = ("input", "output", "reasoning")
_CACHE: Final = {"read": "cacheRead", "write": "cacheWrite"}

Messages = Sequence[Mapping[str, Any]]


def result_of(messages: Messages) -> dict[str, Any] | None:
    """The outcome that these messages of a session tell, prompt first: `kind` is `completed` or `failed`, with the last
    answer, tokens and cost of all. None while there is no answer."""
    answers = [one for one in messages if _info(one).get("role") == "assistant"]
    if not answers:
        return None
    infos = [_info(one) for one in answers]
    spent = {"tokens": _tokens(infos), "cost": sum(_number(info.get("cost")) for info in infos)}
    error = infos[-1].get("error")
    if isinstance(error, dict):
        return {"kind": "failed", "text": _why(error), **spent}
    said = [text for one in answers if (text := _text(one))]
    return {"kind": "completed", "text": cut(said[-1] if said else "", ANSWER_MOST), **spent}


def _info(message: Mapping[str, Any]) -> Mapping[str, Any]:
    info = message.get("info")
    return info if isinstance(info, dict) else {}


def _text(message: Mapping[str, Any]) -> str:
    parts = [part for part in message.get("parts") or () if isinstance(part, dict)]
    return "\n\n".join(str(part.get("text")) for part in parts if part.get("type") == "text" and part.get("text"))


def _why(error: Mapping[str, Any]) -> str:
    data = error.get("data")
    said = data.get("message") if isinstance(data, dict) else None
    return cut(str(said or error.get("name") or "The model has failed"), FIELD_MOST)


def _tokens(infos: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    total = dict.fromkeys((*_COUNTS, *_CACHE.values()), 0)
    for info in infos:
        tokens = info.get("tokens")
        if isinstance(tokens, dict):
            for name in _COUNTS:
                total[name] += int(_number(tokens.get(name)))
            cache = tokens.get("cache")
            for name, ours in _CACHE.items():
                total[ours] += int(_number(cache.get(name))) if isinstance(cache, dict) else 0
    return total


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
