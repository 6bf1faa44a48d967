"""Operations on ports: what listens inside, and bytes both ways to it."""

import asyncio
from typing import Any

from boxkeep_guest import frames
from boxkeep_guest.calls import Call, Op
from boxkeep_guest.errors import BadFrame, Refused
from boxkeep_guest.listeners import described, listening

CONNECT_SECONDS = 10.0
_LOOPBACKS = ("127.0.0.1", "::1")


class PortCalls:
    """The handlers. `own` is the port of the wire itself, which is nobody's to see or to dial."""

    def __init__(self, own: int) -> None:
        self._own = own

    def ops(self) -> dict[str, Op]:
        """The operations by name."""
        return {"port.list": Op(self._list), "port.dial": Op(self._dial, counted=False, duplex=True)}

    async def _list(self, call: Call) -> None:
        await call.answer(listeners=await asyncio.get_running_loop().run_in_executor(None, self._listeners))

    def _listeners(self) -> list[dict[str, Any]]:
        return described([one for one in listening() if one.port != self._own])

    async def _dial(self, call: Call) -> None:
        port = call.fields.integer("port", least=1, most=65535)
        if port == self._own:
            raise Refused("not_permitted", f"Port {port} is the sandbox's own")
        reader, writer = await _connect(port, (*_LOOPBACKS, call.connection.own_address))
        try:
            await call.answer()
            await _relay(call, reader, writer)
        finally:
            writer.close()


async def _connect(port: int, addresses: tuple[str, ...]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the first of these addresses on which something takes it."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            for address in addresses:
                try:
                    return await asyncio.open_connection(address, port, limit=frames.DATA_MOST)
                except OSError:
                    continue
    except TimeoutError:
        raise Refused("not_running", f"What listens on port {port} takes no connections") from None
    raise Refused("not_running", f"Nothing listens on port {port}")


async def _relay(call: Call, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until what listens has said all it had and the host too, or either is gone."""
    inward = asyncio.create_task(_inward(call, writer))
    outward = asyncio.create_task(_outward(call, reader))
    try:
        await asyncio.wait((inward, outward), return_when=asyncio.FIRST_EXCEPTION)
        for task in (inward, outward):
            if task.done():
                task.result()
    except OSError:
        return
    finally:
        for task in (inward, outward):
            task.cancel()
        await asyncio.gather(inward, outward, return_exceptions=True)


async def _inward(call: Call, writer: asyncio.StreamWriter) -> None:
    while True:
        kind, payload = await call.connection.receive()
        if kind == frames.END:
            if writer.can_write_eof():
                writer.write_eof()
            return
        if kind != frames.DATA:
            raise BadFrame(f"a port takes no frames of type {kind}")
        writer.write(payload)
        await writer.drain()


async def _outward(call: Call, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(frames.DATA_MOST):
        await call.connection.send(frames.DATA, data)
    await call.end()
