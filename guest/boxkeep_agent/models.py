"""Which model the agent thinks with, by the variables of the sandbox's environment; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_OPENROUTER: Final = "https://openrouter.ai/api/v1"
_OPENROUTER_MODEL: Final = "openrouter/auto"
_OPENAI: Final = "https://api.openai.com/v1"
NONE: Final = (
    "The sandbox's env names no model: it needs OPENROUTER_API_KEY, and OPENROUTER_MODEL if that shall not choose; or "
    "OPENAI_MODEL with OPENAI_API_KEY or OPENAI_BASE_URL"
)


@dataclass(frozen=True)
class Models:
    """A provider that speaks as OpenAI does: its name, where it is, its key, a model for work and one for small things
    as titles."""

    provider: str
    url: str
    key: str
    large: str
    small: str

    def config(self) -> dict[str, Any]:
        """The part of opencode's configuration that says so."""
        names = dict.fromkeys((self.large, self.small))
        provider = {
            "npm": "@ai-sdk/openai-compatible",
            "name": self.provider,
            "options": {"baseURL": self.url, "apiKey": self.key},
            "models": {name: {"name": name} for name in names},
        }
        return {
            "provider": {self.provider: provider},
            "enabled_providers": [self.provider],
            "model": f"{self.provider}/{self.large}",
            "small_model": f"{self.provider}/{self.small}",
        }


def models_of(environment: Mapping[str, str]) -> Models | None:
    """The models that an environment names, OpenRouter's before others'; None where it names none."""
    given = {name: value for name, value in environment.items() if value}
    if "OPENROUTER_API_KEY" in given:
        large = given.get("OPENROUTER_MODEL", _OPENROUTER_MODEL)
        url, key = given.get("OPENROUTER_BASE_URL", _OPENROUTER), given["OPENROUTER_API_KEY"]
        return Models("openrouter", url, key, large, given.get("OPENROUTER_SMALL_MODEL", large))
    if "OPENAI_MODEL" in given and ("OPENAI_API_KEY" in given or "OPENAI_BASE_URL" in given):
        large = given["OPENAI_MODEL"]
        url, key = given.get("OPENAI_BASE_URL", _OPENAI), given.get("OPENAI_API_KEY", "")
        return Models("openai-compatible", url, key, large, given.get("OPENAI_SMALL_MODEL", large))
    return None
