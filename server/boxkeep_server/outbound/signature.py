"""Signs messages as the Standard Webhooks specification has it: `webhook-id`, `webhook-timestamp`, `webhook-signature`.

The specification: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hashlib
import hmac
from collections.abc import Iterable
from typing import Final

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32


def as_text(secret: bytes) -> str:
    """A secret as its holder is given it."""
    return PREFIX + base64.b64encode(secret).decode()


def headers(message: str, at_s: int, body: bytes, secrets: Iterable[bytes]) -> dict[str, str]:
    """The three headers of a message. `at_s` is when it is sent, epoch seconds; each secret signs."""
    signed = f"{message}.{at_s}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode() for secret in secrets)
    return {
        "webhook-id": message,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
