"""Where a guest is found, and the proofs by which it and the host know each other."""

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Any

from boxkeep_server.guestwire.errors import CODES, GuestProtocolError, GuestRefused

WIRE = 1
MESSAGE_MOST = 1000
_NONCE = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class GuestAddress:
    """A machine's guest: where it listens, and what opens it for one epoch."""

    host: str
    port: int
    machine: str
    epoch: int
    secret: bytes

    def __repr__(self) -> str:
        return f"GuestAddress({self.host}:{self.port}, machine={self.machine}, epoch={self.epoch})"


def mac_of(side: str, address: GuestAddress, guest_nonce: str, host_nonce: str) -> str:
    """The proof of `side` ("host" or "guest") that it knows the machine's secret."""
    text = f"boxkeep {side} 1\n{address.machine}\n{address.epoch}\n{guest_nonce}\n{host_nonce}"
    return hmac.new(address.secret, text.encode(), hashlib.sha256).hexdigest()


def answer_greeting(greeting: dict[str, Any], address: GuestAddress, host_nonce: str) -> tuple[dict[str, Any], str]:
    """What to send in answer to a guest's greeting, and the mac that must come back.

    Raises:
        GuestProtocolError: it is no greeting, or not of a version that we speak.
    """
    versions, nonce = greeting.get("wire"), greeting.get("nonce")
    if not isinstance(versions, list) or WIRE not in versions:
        raise GuestProtocolError("the guest does not speak version 1 of the wire")
    if not isinstance(nonce, str) or not _NONCE.match(nonce):
        raise GuestProtocolError("the guest's greeting has no nonce")
    message = {
        "wire": WIRE,
        "machine": address.machine,
        "epoch": address.epoch,
        "nonce": host_nonce,
        "mac": mac_of("host", address, nonce, host_nonce),
    }
    return message, mac_of("guest", address, nonce, host_nonce)


def check_proof(answer: dict[str, Any], expected: str) -> None:
    """Raise unless the guest's last handshake message proves the secret.

    Raises:
        GuestRefused: it takes us for somebody else (`unauthorised`).
        GuestProtocolError: it proves nothing; whoever answers is not the machine meant.
    """
    raise_refusal(answer)
    mac = answer.get("mac")
    if answer.get("ok") is not True or not isinstance(mac, str) or not mac.isascii():
        raise GuestProtocolError("the guest ended the handshake without a proof")
    if not hmac.compare_digest(mac, expected):
        raise GuestProtocolError("whoever answers there is not the machine meant")


def raise_refusal(answer: dict[str, Any]) -> None:
    """Raise GuestRefused if `answer` is an error, GuestProtocolError if it is a malformed one."""
    if "error" not in answer:
        return
    error = answer["error"]
    code = error.get("code") if isinstance(error, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    if not isinstance(code, str) or code not in CODES or not isinstance(message, str):
        raise GuestProtocolError("the guest's error is none of the wire's")
    raise GuestRefused(code, _printable(message))


def check_answer(answer: dict[str, Any]) -> None:
    """Raise GuestRefused if `answer` is an error, GuestProtocolError if it is no answer at all."""
    raise_refusal(answer)
    if answer.get("ok") is not True:
        raise GuestProtocolError("the guest's answer is neither an error nor ok")


def _printable(text: str) -> str:
    shown = text[:MESSAGE_MOST].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return "".join(char if char.isprintable() else "\ufffd" for char in shown)
