"""The handshake's proofs: which machine, which epoch, and that both sides know the secret."""

import hmac
from typing import Any

from boxkeep_guest.errors import Refused

WIRE = 1
NONCE_BYTES = 32


def proof(side: str, secret: bytes, machine: str, epoch: int, nonces: tuple[str, str]) -> str:
    """The mac by which `side` ("host" or "guest") proves the secret over (guest nonce, host nonce)."""
    text = f"boxkeep {side} 1\n{machine}\n{epoch}\n{nonces[0]}\n{nonces[1]}"
    return hmac.new(secret, text.encode("utf-8", "surrogatepass"), "sha256").hexdigest()


def accept(greeting: dict[str, Any], secret: bytes, machine: str, epoch: int, nonce: str) -> str:
    """The guest's own mac in answer to a host's `greeting`, which proved the secret over our `nonce`.

    Raises:
        Refused: `unauthorised`, in the same words whatever is wrong but the version.
    """
    if greeting.get("wire") != WIRE:
        raise Refused("bad_request", "This guest speaks version 1 of the wire")
    theirs, mac = greeting.get("nonce"), greeting.get("mac")
    if not isinstance(theirs, str) or not isinstance(mac, str) or len(theirs) != 2 * NONCE_BYTES:
        raise Refused("bad_request", "The greeting has no nonce or mac")
    expected = proof("host", secret, machine, epoch, (nonce, theirs))
    known = greeting.get("machine") == machine and greeting.get("epoch") == epoch
    if not hmac.compare_digest(expected.encode(), mac.encode("utf-8", "surrogatepass")) or not known:
        raise Refused("unauthorised", "This machine is not open to that proof")
    return proof("guest", secret, machine, epoch, (nonce, theirs))
