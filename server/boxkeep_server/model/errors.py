"""The one tree of errors that a client can meet; `web` gives each a status, adapters translate into it.

BoxkeepError
├── Unauthenticated            401
├── RateLimited                429
├── TooLarge                   413
├── Invalid                    400
├── PermissionDenied           403
├── NotFound                   404
├── PlanForbids                403
├── Conflict                   409
├── LimitReached               429
├── NoSpace                    507
├── NotBuilt                   501
├── SandboxFault               502
├── Unavailable                503
└── TimedOut                   504
"""

from collections.abc import Mapping
from typing import ClassVar


class BoxkeepError(Exception):
    """An error with a sentence for the client, a stable code, and fields that go into the body beside them."""

    code: ClassVar[str | None] = None

    def __init__(self, sentence: str, *, code: str | None = None, **fields: object) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.stable_code = code or type(self).code
        self.fields: Mapping[str, object] = fields

    def body(self) -> dict[str, object]:
        """The JSON body of the contract: `error`, `code` where there is one, and the fields."""
        code = {"code": self.stable_code} if self.stable_code else {}
        return {"error": self.sentence, **code, **self.fields}


class Unauthenticated(BoxkeepError):
    """No key, or one that is unknown, revoked or expired."""

    def __init__(self) -> None:
        super().__init__("Invalid or missing API key")


class RateLimited(BoxkeepError):
    """Too many calls of a kind; may be repeated after `retry_after_s` seconds."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("Rate limit exceeded. Please try again later.")
        self.retry_after_s = retry_after_s


class TooLarge(BoxkeepError):
    """A body or a result over its bound."""


class Invalid(BoxkeepError):
    """Malformed input; the sentence names the field and what is wrong."""


class PermissionDenied(BoxkeepError):
    """The key lacks the scope that the route asks for."""

    code = "PERMISSION_DENIED"

    def __init__(self) -> None:
        super().__init__("Insufficient permissions")


class NotFound(BoxkeepError):
    """What is asked for is not there, or is another organisation's."""


class SandboxNotFound(NotFound):
    """No such sandbox for this organisation."""

    def __init__(self) -> None:
        super().__init__("Sandbox session not found")


class PlanForbids(BoxkeepError):
    """The organisation's plan lacks a feature."""

    code = "PLAN_FEATURE_UNAVAILABLE"

    def __init__(self, feature: str, required_plan: str, current_plan: str) -> None:
        super().__init__(
            f"{feature} is not available on your current plan. Upgrade to {required_plan.capitalize()} or higher.",
            requiredPlan=required_plan,
            currentPlan=current_plan,
        )


class Conflict(BoxkeepError):
    """The state of a thing forbids the wish."""


class NotReady(Conflict):
    """The sandbox is not ready to be worked in."""

    def __init__(self) -> None:
        super().__init__("Sandbox is not ready")


class LimitReached(BoxkeepError):
    """A limit of the plan: concurrency, hours, storage."""


class NoSpace(BoxkeepError):
    """The sandbox's disk is full."""


class NotBuilt(BoxkeepError):
    """Asked for and not there yet."""


class SandboxFault(BoxkeepError):
    """The inside of a sandbox answered wrongly, or not at all."""

    def __init__(self, sentence: str = "Sandbox answered wrongly") -> None:
        super().__init__(sentence)


class Unavailable(BoxkeepError):
    """A part of the service is away; may be repeated after `retry_after_s` seconds."""

    def __init__(self, sentence: str, retry_after_s: int = 1) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s


class TimedOut(BoxkeepError):
    """Something did not happen within its time."""
