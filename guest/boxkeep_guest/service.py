"""Serves the guest wire: accepts, authenticates, and runs one call at a time on each connection."""

import asyncio
import os
import sys
from typing import Any

from boxkeep_guest import __version__, frames, handshake
from boxkeep_guest.calls import Call, Op, error_of
from boxkeep_guest.connection import Connection
from boxkeep_guest.errors import BadFrame, PeerGone, Refused, refusal
from boxkeep_guest.fields import Fields

CONNECTIONS_MOST = 512
STRANGERS_MOST = 64
HANDSHAKE_SECONDS = 20.0


class Identity:
    """Which machine this is, by the name that it has for its host, and what opens it. Changed by a claim."""

    def __init__(self, machine: str, epoch: int, secret: bytes) -> None:
        self.machine = machine
        self.epoch = epoch
        self.secret = secret


class Gate:
    """Whether calls may begin, and how many are under way. `parted`: no connection shall stay while it is closed."""

    def __init__(self) -> None:
        self.closed = False
        self.parted = False
        self.under_way = 0

    def check(self) -> None:
        """Refused `busy` when a call is under way."""
        if self.under_way:
            raise Refused("busy", "A call is under way")


class Service:
    """The listening side. `ops` may be filled after it is made."""

    def __init__(self, identity: Identity, gate: Gate) -> None:
        self.ops: dict[str, Op] = {}
        self._identity = identity
        self._gate = gate
        self._tasks: dict[Connection, asyncio.Task[None]] = {}
        self._strangers = 0

    async def listen(self, address: str, port: int) -> asyncio.Server:
        """Begin to accept connections."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(
            lambda: Connection(self._opened, self._closed), address, port, backlog=512, reuse_address=True
        )

    def part(self, but: Connection) -> None:
        """Cut every connection off but one."""
        for connection in list(self._tasks):
            if connection is not but:
                connection.abort()

    def _opened(self, connection: Connection) -> None:
        if len(self._tasks) >= CONNECTIONS_MOST or self._strangers >= STRANGERS_MOST:
            connection.abort()
            return
        self._strangers += 1
        self._tasks[connection] = asyncio.get_running_loop().create_task(self._serve(connection))

    def _closed(self, connection: Connection) -> None:
        task = self._tasks.pop(connection, None)
        if task is not None:
            task.cancel()

    async def _serve(self, connection: Connection) -> None:
        try:
            try:
                async with asyncio.timeout(HANDSHAKE_SECONDS):
                    await self._greet(connection)
            finally:
                self._strangers -= 1
            while await self._call(connection):
                pass
            await connection.part()
        except (PeerGone, BadFrame, TimeoutError):
            connection.abort()
        finally:
            connection.close()

    async def _greet(self, connection: Connection) -> None:
        nonce = os.urandom(handshake.NONCE_BYTES).hex()
        await connection.send_json({"wire": [handshake.WIRE], "guest": __version__, "nonce": nonce})
        kind, payload = await connection.receive()
        if kind != frames.JSON:
            raise BadFrame("the greeting must be JSON")
        identity = self._identity
        try:
            mac = handshake.accept(
                frames.decode_json(payload), identity.secret, identity.machine, identity.epoch, nonce
            )
        except Refused as refused:
            await connection.send_json(error_of(refused))
            connection.close()
            raise PeerGone from None
        connection.allow_calls()
        await connection.send_json({"ok": True, "mac": mac})

    async def _call(self, connection: Connection) -> bool:
        """Serve one call; whether the connection can take another."""
        kind, payload = await connection.receive()
        if kind != frames.JSON:
            raise BadFrame("a call begins with JSON")
        request = frames.decode_json(payload)
        name = request.get("op")
        op = self.ops.get(name) if isinstance(name, str) else None
        if op is None:
            await connection.send_json(error_of(Refused("unknown_op", "There is no such operation")))
            return True
        if op.held and self._gate.closed:
            await connection.send_json(error_of(Refused("busy", "The gate is closed")))
            return not self._gate.parted
        self._gate.under_way += op.counted
        try:
            return await self._answer(op, Call(Fields(request), connection), request)
        finally:
            self._gate.under_way -= op.counted

    @staticmethod
    async def _answer(op: Op, call: Call, request: dict[str, Any]) -> bool:
        try:
            await op.serve(call)
        except Refused as refused:
            await call.json(error_of(refused))
            return not call.answered
        except OSError as error:
            await call.json(error_of(refusal(error, "The call")))
            return not call.answered
        except (ValueError, TypeError, KeyError, AssertionError, RuntimeError, MemoryError) as error:
            sys.stderr.write(f"boxkeep-guest: {request.get('op')!r} failed: {error!r}\n")
            await call.json(error_of(Refused("internal", "The guest failed at this call")))
            return not call.answered
        return not op.duplex
