"""The node API: HTTP over a Unix socket, for peers of the right account only."""

import asyncio
import contextlib
import logging
import os
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final, TypeVar

from aiohttp import web
from pydantic import BaseModel, TypeAdapter, ValidationError

from boxkeep_server.model.machines import Key, is_name
from boxkeep_server.model.node_api import (
    COPY_KEY_HEADER,
    BaseHeld,
    BaseKind,
    CheckpointWish,
    ClaimChange,
    ClaimHint,
    Claims,
    ClaimWish,
    Discarded,
    Id,
    PauseWish,
    Refusal,
    RefusalCode,
    Role,
    Snapshots,
)
from boxkeep_server.node.bases import NotThatContent
from boxkeep_server.node.refusals import Broken, Malformed, NodeRefusal, NoSuchClaim, Stranger, Unfit
from boxkeep_server.node.service import Service

_log = logging.getLogger(__name__)

BODY_MOST: Final = 1 << 20
_HEARTBEAT_S: Final = 5.0
_EPOCH_MOST: Final = 1 << 53
_PEER: Final = struct.Struct("iII")

M = TypeVar("M", bound=BaseModel)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_ID: Final[TypeAdapter[str]] = TypeAdapter(Id)
_ROLE: Final[TypeAdapter[Role]] = TypeAdapter(Role)
_DIGESTS: Final[dict[BaseKind, str]] = {"layer": r"[0-9a-f]{32}", "image": r"[0-9a-f]{32}", "guest": r"[0-9a-f]{64}"}


class Api:
    """The routes of one node's service. `uids` are the accounts that may speak."""

    def __init__(self, service: Service, uids: frozenset[int]) -> None:
        self._service = service
        self._uids = uids

    def application(self) -> web.Application:
        """The application, to be served on a Unix socket."""
        application = web.Application(middlewares=[self._guarded], client_max_size=BODY_MOST)
        one = "/v1/claims/{sandbox}/{epoch}/{role}"
        application.add_routes(
            [
                web.get("/v1/node", self._node, allow_head=False),
                web.get("/v1/claims", self._list, allow_head=False),
                web.post("/v1/claims", self._claim),
                web.get(one, self._get, allow_head=False),
                web.patch(one, self._change),
                web.delete(one, self._release),
                web.post(f"{one}/pause", self._pause),
                web.post(f"{one}/checkpoints", self._checkpoint),
                web.delete("/v1/checkpoints/{checkpoint}", self._forget),
                web.get("/v1/snapshots", self._snapshots, allow_head=False),
                web.delete("/v1/snapshots/{sandbox}/{epoch}/{role}", self._discard),
                web.get("/v1/snapshots/{name}/copy", self._hand_out, allow_head=False),
                web.put("/v1/snapshots/{name}/copy", self._take_in),
                web.get("/v1/snapshots/{name}/bases", self._bases_of, allow_head=False),
                web.post("/v1/bases/{kind}/{digest}", self._hold_base),
                web.get("/v1/bases/{kind}/{digest}", self._read_base, allow_head=False),
                web.put("/v1/bases/{kind}/{digest}", self._take_base),
                web.get("/v1/watch", self._watch, allow_head=False),
                web.get("/v1/leaks", self._leaks, allow_head=False),
                web.get("/metrics", self._metrics, allow_head=False),
            ]
        )
        application.on_shutdown.append(self._close)
        return application

    async def _close(self, _: web.Application) -> None:
        self._service.hints.close()

    async def _node(self, _: web.Request) -> web.Response:
        return _answer(self._service.facts())

    async def _list(self, _: web.Request) -> web.Response:
        return _answer(Claims(claims=self._service.claims.list()))

    async def _claim(self, request: web.Request) -> web.Response:
        return _answer(await self._service.claims.claim(await _message(request, ClaimWish)))

    async def _get(self, request: web.Request) -> web.Response:
        return _answer(self._service.claims.get(_key(request)))

    async def _change(self, request: web.Request) -> web.Response:
        key, change = _key(request), await _message(request, ClaimChange)
        return _answer(self._service.claims.change(key, change.not_after))

    async def _release(self, request: web.Request) -> web.Response:
        return _answer(await self._service.claims.release(_key(request)))

    async def _pause(self, request: web.Request) -> web.Response:
        key, wish = _key(request), await _message(request, PauseWish)
        return _answer(await self._service.pauses.pause(key, if_idle=wish.if_idle, or_files=wish.or_files))

    async def _checkpoint(self, request: web.Request) -> web.Response:
        key, wish = _key(request), await _message(request, CheckpointWish)
        return _answer(await self._service.checkpoints.take(key, wish.checkpoint, memory=wish.memory))

    async def _forget(self, request: web.Request) -> web.Response:
        try:
            checkpoint = _ID.validate_python(request.match_info["checkpoint"])
        except ValidationError as error:
            raise Malformed(_sentence(error)) from None
        return _answer(Discarded(count=int(await self._service.forget(checkpoint))))

    async def _snapshots(self, _: web.Request) -> web.Response:
        return _answer(Snapshots(snapshots=await asyncio.to_thread(self._service.snapshots)))

    async def _discard(self, request: web.Request) -> web.Response:
        key = _key(request)
        return _answer(Discarded(count=await self._service.discard(*key)))

    async def _bases_of(self, request: web.Request) -> web.Response:
        return _answer(await asyncio.to_thread(self._service.bases_of, _snapshot_name(request)))

    async def _hand_out(self, request: web.Request) -> web.StreamResponse:
        name, key = _snapshot_name(request), _copy_key(request)
        async with _streamed(request) as write:
            await self._service.copies.hand_out(name, key, write)
        return write.response

    async def _take_in(self, request: web.Request) -> web.Response:
        name, key = _snapshot_name(request), _copy_key(request)
        return _answer(await self._service.copies.take_in(name, key, request.content.iter_any()))

    async def _hold_base(self, request: web.Request) -> web.Response:
        return _answer(BaseHeld(held=await self._service.bases.has(*_base(request))))

    async def _read_base(self, request: web.Request) -> web.StreamResponse:
        try:
            chunks = await self._service.bases.read(*_base(request))
        except FileNotFoundError:
            raise NoSuchClaim("There is no such image or guest") from None
        async with _streamed(request) as write, contextlib.aclosing(chunks):
            async for chunk in chunks:
                await write(chunk)
        return write.response

    async def _take_base(self, request: web.Request) -> web.Response:
        try:
            await self._service.bases.take(*_base(request), request.content.iter_any())
        except NotThatContent as error:
            raise Unfit(str(error)) from error
        except OSError as error:
            raise Broken(f"It could not be written: {error}") from error
        return _answer(BaseHeld(held=True))

    async def _leaks(self, _: web.Request) -> web.Response:
        return _answer(await self._service.leaks())

    async def _metrics(self, _: web.Request) -> web.Response:
        text = self._service.metrics.text(self._service.facts(), self._service.claims.list())
        return web.Response(body=text, content_type="text/plain", charset="utf-8")

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        with self._service.hints.listen() as hints:
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                async for line in _lines(hints):
                    await response.write(line)
        return response

    @web.middleware
    async def _guarded(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Let only the right peers in, and answer every failure in the words of the API."""
        try:
            self._refuse_strangers(request)
            return await handler(request)
        except NodeRefusal as error:
            return _refusal(error.status, error.code, str(error))
        except web.HTTPRequestEntityTooLarge:
            return _refusal(400, "bad_request", f"The body is larger than {BODY_MOST} bytes")
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
            return _refusal(404, "not_found", "No such route")
        except Exception:  # noqa: BLE001 - the outermost frame: a bug of ours, told as such
            _log.exception("%s %s failed", request.method, request.path)
            return _refusal(500, "internal", "Internal error")

    def _refuse_strangers(self, request: web.Request) -> None:
        if _peer(request) not in self._uids:
            raise Stranger("This socket is for the service's account")


async def serve(application: web.Application, path: Path, group: int) -> web.AppRunner:
    """Listen on the Unix socket `path`, for root and the group; answers once it listens. To be cleaned up."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    await web.SockSite(runner, _listening(path, group), backlog=512).start()
    return runner


def _listening(path: Path, group: int) -> socket.socket:
    """Moved into its place only once nobody else may connect: it never is there with other rights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(fresh))
        fresh.chmod(0o660)
        os.chown(fresh, -1, group)
        listening.listen(512)
        fresh.replace(path)
    except OSError:
        listening.close()
        raise
    return listening


def _peer(request: web.Request) -> int | None:
    """The uid of whoever made the connection, None where there is none any more."""
    transport = request.transport
    connection = None if transport is None else transport.get_extra_info("socket")
    if connection is None:
        return None
    _, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return int(uid)


class _Stream:
    """A response whose head is sent with its first bytes: until then a refusal can be answered."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})

    async def __call__(self, chunk: bytes) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)
        await self.response.write(chunk)


@contextlib.asynccontextmanager
async def _streamed(request: web.Request) -> AsyncIterator[_Stream]:
    """A stream that is whole when this ends; where it fails on the way its connection is cut, so that nobody takes what
    came for all of it."""
    stream = _Stream(request)
    try:
        yield stream
    except ConnectionError:
        return  # who asked is gone
    except BaseException:
        if stream.response.prepared and request.transport is not None:
            request.transport.abort()
        raise


def _snapshot_name(request: web.Request) -> str:
    name = request.match_info["name"]
    if not is_name(name):
        raise Malformed("name: not that of a snapshot")
    return name


def _copy_key(request: web.Request) -> bytes:
    key = request.headers.get(COPY_KEY_HEADER, "")
    if not re.fullmatch(r"[0-9a-f]{64}", key):
        raise Malformed(f"{COPY_KEY_HEADER}: must be 64 hexadecimal digits")
    return bytes.fromhex(key)


def _base(request: web.Request) -> tuple[BaseKind, str]:
    kind, digest = request.match_info["kind"], request.match_info["digest"]
    if kind not in _DIGESTS or not re.fullmatch(_DIGESTS[kind], digest):
        raise Malformed("not an image or a guest")
    return kind, digest


def _key(request: web.Request) -> Key:
    try:
        sandbox = _ID.validate_python(request.match_info["sandbox"])
        role = _ROLE.validate_python(request.match_info["role"])
        epoch = request.match_info["epoch"]
    except ValidationError as error:
        raise Malformed(_sentence(error)) from None
    if not (epoch.isascii() and epoch.isdecimal() and len(epoch) <= 16 and 1 <= int(epoch) < _EPOCH_MOST):
        raise Malformed("epoch: must be a positive integer")
    return Key(sandbox, int(epoch), role)


async def _message(request: web.Request, kind: type[M]) -> M:
    try:
        return kind.model_validate_json(await request.read())
    except ValidationError as error:
        raise Malformed(_sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    """The first fault, without the value: that may be a secret."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"][:2])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


async def _lines(hints: asyncio.Queue[ClaimHint | None]) -> AsyncIterator[bytes]:
    """Hints as lines, and heartbeats between them, from the first moment on."""
    yield b"{}\n"
    while True:
        try:
            async with asyncio.timeout(_HEARTBEAT_S):
                hint = await hints.get()
        except TimeoutError:
            yield b"{}\n"
            continue
        if hint is None:
            return
        yield hint.model_dump_json(by_alias=True).encode() + b"\n"


def _answer(message: BaseModel) -> web.Response:
    return web.Response(text=message.model_dump_json(by_alias=True), content_type="application/json")


def _refusal(status: int, code: RefusalCode, sentence: str) -> web.Response:
    body = Refusal(error=sentence, code=code).model_dump_json(by_alias=True)
    return web.Response(status=HTTPStatus(status), text=body, content_type="application/json")
