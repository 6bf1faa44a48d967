"""Messages of JSON-RPC 2.0 as MCP has them: read strictly, made plainly; pure."""

import json
from dataclasses import dataclass
from typing import Any, Final

Id = str | int

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603


class Fault(Exception):
    """A message that cannot be done as asked: the error that answers it, and the id of the request if it has one."""

    def __init__(self, code: int, sentence: str, id: Id | None = None) -> None:  # noqa: A002 - its name in the protocol
        super().__init__(sentence)
        self.code = code
        self.id = id

    @property
    def message(self) -> dict[str, Any]:
        """The answer."""
        return {"jsonrpc": "2.0", "id": self.id, "error": {"code": self.code, "message": str(self)}}


@dataclass(frozen=True)
class Incoming:
    """A request, or without an id a notification."""

    method: str
    params: dict[str, Any]
    id: Id | None


def read(line: bytes | None) -> Incoming | None:
    """What a line says; None for an answer, since we ask nothing. `line` is None for one that was too long.

    Raises:
        Fault
    """
    if line is None:
        raise Fault(PARSE_ERROR, "The message is too long")
    try:
        said = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Fault(PARSE_ERROR, "The message is not JSON") from error
    if not isinstance(said, dict) or said.get("jsonrpc") != "2.0":
        raise Fault(INVALID_REQUEST, "The message is not one of JSON-RPC 2.0")
    if "method" not in said and ("result" in said or "error" in said):
        return None
    return _incoming(said)


def _incoming(said: dict[str, Any]) -> Incoming:
    own = said.get("id")
    if "id" in said and (not isinstance(own, str | int) or isinstance(own, bool)):
        raise Fault(INVALID_REQUEST, "The id is neither a text nor a whole number")
    if not isinstance(said.get("method"), str):
        raise Fault(INVALID_REQUEST, "The method is not named", own)
    if not isinstance(said.get("params", {}), dict):
        raise Fault(INVALID_PARAMS, "The parameters are not an object", own)
    return Incoming(said["method"], said.get("params", {}), own)


def answer(id: Id, result: dict[str, Any]) -> dict[str, Any]:  # noqa: A002 - its name in the protocol
    """What answers a request that went well."""
    return {"jsonrpc": "2.0", "id": id, "result": result}


def notification(method: str, **params: Any) -> dict[str, Any]:
    """What is said without being asked."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def line(message: dict[str, Any]) -> bytes:
    """A message as it goes over the wire."""
    return json.dumps(message).encode() + b"\n"
