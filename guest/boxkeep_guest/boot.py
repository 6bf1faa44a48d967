"""The boot file: what the node tells the guest before anything else can."""

import json
from typing import NamedTuple


class Boot(NamedTuple):
    """A parsed boot file. `memory_limit` is in bytes, `process_limit` a number; 0 where unknown or none."""

    machine: str
    secret: bytes
    epoch: int
    address: str
    port: int
    log: str
    workspace: str
    runtime: str
    memory_limit: int
    process_limit: int
    meminfo: str


def read_boot(path: str) -> Boot:
    """The boot file at `path`.

    Raises:
        ValueError, KeyError, TypeError, OSError: it is not there or not what the wire's page says.
    """
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs start-up
        told = json.load(file)
    address, port = told["listen"]
    secret = bytes.fromhex(told["secret"])
    if len(secret) != 32:
        raise ValueError("the secret must have 32 bytes")
    return Boot(
        machine=str(told["machine"]),
        secret=secret,
        epoch=int(told.get("epoch", 0)),
        address=str(address),
        port=int(port),
        log=str(told["log"]),
        workspace=str(told.get("workspace", "/workspace")),
        runtime=str(told.get("runtime", "runc")),
        memory_limit=int(told.get("memoryLimitBytes") or 0),
        process_limit=int(told.get("processLimit") or 0),
        meminfo=str(told.get("meminfo", "/proc/meminfo")),
    )
