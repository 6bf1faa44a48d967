"""The client of one node's API over its Unix socket, with the node's errors in the engine's words."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import orjson
from pydantic import BaseModel, ValidationError

from boxkeep_server.model.machines import Key
from boxkeep_server.model.node_api import (
    COPY_KEY_HEADER,
    BaseHeld,
    BaseKind,
    CheckpointWish,
    Claim,
    ClaimChange,
    ClaimHint,
    Claims,
    ClaimWish,
    Discarded,
    Leaks,
    NodeFacts,
    PauseWish,
    Refusal,
    Release,
    Snapshot,
    SnapshotBases,
    Snapshots,
)

CALL_S = 10.0
CLAIM_S = 60.0
RELEASE_S = 30.0
PAUSE_S = 120.0
BASE_S = 120.0
WATCH_IDLE_S = 20.0
_CHUNK = 1 << 20
STALL_S = 300.0
_UNLIMITED = aiohttp.ClientTimeout(total=None)
_STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_read=STALL_S)
_FAULTS = (aiohttp.ClientError, TimeoutError, OSError, ValidationError, orjson.JSONDecodeError)

M = TypeVar("M", bound=BaseModel)


class NodeUnreachable(Exception):
    """The node did not answer, or not in the words of its API."""


class NodeRefused(Exception):
    """The node answered with an error; `code` is one of those of the API."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class NodeClient:
    """Calls to one node. To be closed."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let the connections go."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def facts(self) -> NodeFacts:
        """What the node is."""
        return await self._call("GET", "/v1/node", NodeFacts)

    async def place(self, wish: ClaimWish) -> Claim:
        """Bind a machine."""
        return await self._call("POST", "/v1/claims", Claim, wish, CLAIM_S)

    async def claims(self) -> tuple[Claim, ...]:
        """Every claim."""
        return (await self._call("GET", "/v1/claims", Claims)).claims

    async def claim(self, key: Key) -> Claim:
        """One claim."""
        return await self._call("GET", _path(key), Claim)

    async def extend(self, key: Key, not_after: int) -> Claim:
        """Set when the node ends a machine."""
        return await self._call("PATCH", _path(key), Claim, ClaimChange(not_after=not_after))

    async def release(self, key: Key) -> Release:
        """Have everything of a claim gone."""
        return await self._call("DELETE", _path(key), Release, None, RELEASE_S)

    async def pause(self, key: Key, *, if_idle: bool, or_files: bool) -> Snapshot:
        """Keep a machine and release it."""
        wish = PauseWish(if_idle=if_idle, or_files=or_files)
        return await self._call("POST", f"{_path(key)}/pause", Snapshot, wish, PAUSE_S)

    async def snapshots(self) -> tuple[Snapshot, ...]:
        """Every snapshot."""
        return (await self._call("GET", "/v1/snapshots", Snapshots)).snapshots

    async def discard(self, through: Key) -> int:
        """Remove the snapshots of a sandbox's role up to that epoch."""
        path = f"/v1/snapshots/{through.sandbox}/{through.epoch}/{through.role}"
        return (await self._call("DELETE", path, Discarded, None, RELEASE_S)).count

    async def checkpoint(self, key: Key, checkpoint: str, *, memory: bool) -> Snapshot:
        """Keep what there is of a machine as that of its role at a checkpoint."""
        wish = CheckpointWish(checkpoint=checkpoint, memory=memory)
        return await self._call("POST", f"{_path(key)}/checkpoints", Snapshot, wish, PAUSE_S)

    async def forget(self, checkpoint: str) -> int:
        """Remove a checkpoint."""
        return (await self._call("DELETE", f"/v1/checkpoints/{checkpoint}", Discarded, None, RELEASE_S)).count

    async def bases_of(self, snapshot: str) -> SnapshotBases:
        """What a snapshot is made over."""
        return await self._call("GET", f"/v1/snapshots/{snapshot}/bases", SnapshotBases)

    def copy(self, snapshot: str, key: bytes) -> AsyncGenerator[bytes, None]:
        """A snapshot, encrypted; close it when done."""
        return self._read(f"/v1/snapshots/{snapshot}/copy", {COPY_KEY_HEADER: key.hex()})

    async def bring(self, snapshot: str, key: bytes, chunks: AsyncIterable[bytes]) -> Snapshot:
        """Have the node take in a snapshot of which this is the copy."""
        path = f"/v1/snapshots/{snapshot}/copy"
        return await self._send(path, Snapshot, chunks, {COPY_KEY_HEADER: key.hex()})

    async def hold_base(self, kind: BaseKind, digest: str) -> bool:
        """Whether an image or a guest is on the node, ready for machines."""
        return (await self._call("POST", f"/v1/bases/{kind}/{digest}", BaseHeld, None, BASE_S)).held

    def base(self, kind: BaseKind, digest: str) -> AsyncGenerator[bytes, None]:
        """An image or a guest; close it when done."""
        return self._read(f"/v1/bases/{kind}/{digest}", {})

    async def bring_base(self, kind: BaseKind, digest: str, chunks: AsyncIterable[bytes]) -> None:
        """Have the node take in an image or a guest."""
        await self._send(f"/v1/bases/{kind}/{digest}", BaseHeld, chunks, {})

    async def leaks(self) -> Leaks:
        """What belongs to nobody."""
        return await self._call("GET", "/v1/leaks", Leaks, None, RELEASE_S)

    async def watch(self) -> AsyncIterator[ClaimHint]:
        """Hints, until the node goes away or falls silent.

        Raises:
            NodeUnreachable
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_read=WATCH_IDLE_S)
        try:
            async with self._open().get("http://node/v1/watch", timeout=timeout) as response:
                async for line in response.content:
                    yield ClaimHint.model_validate_json(line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValidationError) as error:
            raise NodeUnreachable(str(error)) from error

    async def _call(
        self, method: str, path: str, answer: type[M], message: BaseModel | None = None, timeout_s: float = CALL_S
    ) -> M:
        body = None if message is None else message.model_dump_json(by_alias=True)
        headers = {"Content-Type": "application/json"} if body else {}
        return await self._ask(method, path, answer, body, headers, aiohttp.ClientTimeout(total=timeout_s))

    async def _send(self, path: str, answer: type[M], chunks: AsyncIterable[bytes], headers: Mapping[str, str]) -> M:
        """Send chunks; a node that takes none for `STALL_S`, or does not answer for as long after the last, is away."""
        source = _Source(chunks)
        try:
            async with asyncio.timeout(STALL_S) as patience:
                return await self._ask("PUT", path, answer, source.read(patience), headers, _UNLIMITED)
        except TimeoutError as stalled:
            raise NodeUnreachable(f"PUT {path}: nothing went on for {STALL_S:.0f} s") from stalled
        except NodeUnreachable:
            if source.fault is not None:
                raise source.fault from None
            raise

    async def _ask(
        self,
        method: str,
        path: str,
        answer: type[M],
        body: Any,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
    ) -> M:
        try:
            async with self._open().request(
                method, f"http://node{path}", data=body, headers=headers, timeout=timeout
            ) as response:
                raw = await response.read()
            _refuse(response.status, raw)
            return answer.model_validate_json(raw)
        except _FAULTS as error:
            raise NodeUnreachable(f"{method} {path}: {error or type(error).__name__}") from error

    async def _read(self, path: str, headers: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
        """Raises:
        NodeRefused, NodeUnreachable: at any chunk; what came until then is not the whole.
        """
        try:
            async with self._open().get(f"http://node{path}", headers=headers, timeout=_STREAM_TIMEOUT) as response:
                if response.status != HTTPStatus.OK:
                    _refuse(response.status, await response.read())
                async for chunk in response.content.iter_chunked(_CHUNK):
                    yield chunk
        except _FAULTS as error:
            raise NodeUnreachable(f"GET {path}: {error or type(error).__name__}") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector: Any = aiohttp.UnixConnector(path=str(self._socket), limit=64)
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False)
        return self._session


class _Source:
    """Passes chunks on, and remembers why there were no more of them: the client only says that its body broke."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._chunks = chunks
        self.fault: Exception | None = None

    async def read(self, patience: asyncio.Timeout) -> AsyncIterator[bytes]:
        clock = asyncio.get_running_loop().time
        try:
            async for chunk in self._chunks:
                yield chunk
                patience.reschedule(clock() + STALL_S)
        except Exception as fault:
            self.fault = fault
            raise


def _refuse(status: int, raw: bytes) -> None:
    if status != HTTPStatus.OK:
        refusal = Refusal.model_validate_json(raw)
        raise NodeRefused(refusal.code, refusal.error)


def _path(key: Key) -> str:
    return f"/v1/claims/{key.sandbox}/{key.epoch}/{key.role}"
