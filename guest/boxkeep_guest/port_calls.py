"""The operation on ports: bytes both ways to what listens inside on the loopback address."""

import asyncio

from boxkeep_guest import frames
from boxkeep_guest.calls import Call, Op
from boxkeep_guest.errors import BadFrame, Refused

CONNECT_SECONDS = 10.0
_LOOPBACKS = ("127.0.0.1", "::1")


def ops() -> dict[str, Op]:
    """The operations by name."""
    return {"port.dial": Op(_dial, counted=False, duplex=True)}


async def _dial(call: Call) -> None:
    port = call.fields.integer("port", least=1, most=65535)
    reader, writer = await _connect(port)
    try:
        await call.answer()
        await _relay(call, reader, writer)
    finally:
        writer.close()


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    for address in _LOOPBACKS:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await asyncio.open_connection(address, port, limit=frames.DATA_MOST)
        except (OSError, TimeoutError):
            continue
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
