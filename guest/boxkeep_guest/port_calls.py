"""Operations on ports: what listens inside, bytes both ways to it, and to whoever comes to a port of the host's."""

import asyncio
import contextlib
import socket
from typing import Any

from boxkeep_guest import frames
from boxkeep_guest.calls import Call, Op
from boxkeep_guest.errors import BadFrame, Refused
from boxkeep_guest.listeners import described, listening

CONNECT_SECONDS = 10.0
_LOOPBACKS = ("127.0.0.1", "::1")
TRIES = 16
WAITING_MOST = 64


class _Door:
    """A port at which we listen for the host. `turn` is that of the call that takes the next who comes."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.turn = asyncio.Lock()

    @property
    def port(self) -> int:
        """Where it is."""
        port: int = self.listener.getsockname()[1]
        return port


class PortCalls:
    """The handlers. `own` is the port of the wire itself, which is nobody's to see or to dial."""

    def __init__(self, own: int) -> None:
        self._own = own
        self._doors: dict[int, _Door] = {}

    def ops(self) -> dict[str, Op]:
        """The operations by name."""
        return {
            "port.list": Op(self._list),
            "port.dial": Op(self._dial, counted=False, duplex=True),
            "port.accept": Op(self._accept, counted=False, duplex=True),
        }

    async def _list(self, call: Call) -> None:
        await call.answer(listeners=await asyncio.get_running_loop().run_in_executor(None, self._listeners))

    def _listeners(self) -> list[dict[str, Any]]:
        return described([one for one in listening() if one.port != self._own])

    async def _dial(self, call: Call) -> None:
        port = call.fields.integer("port", least=1, most=65535)
        if port == self._own:
            raise Refused("not_permitted", f"Port {port} is the sandbox's own")
        with await _connect(port, (*_LOOPBACKS, call.connection.own_address)) as program:
            await call.answer()
            await _relay(call, program)

    async def _accept(self, call: Call) -> None:
        door = self._door(call.fields.integer("port", least=1024, most=65535 - TRIES))
        await call.answer(port=door.port)
        async with door.turn:
            program, _ = await asyncio.get_running_loop().sock_accept(door.listener)
        with program:
            program.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await call.json({"accepted": True})
            await _relay(call, program)

    def _door(self, wished: int) -> _Door:
        """The door that was wished at a port: there, or at the next that was free. It stays once it is there, so that
        who comes while nobody of the host's waits is waited for."""
        if wished not in self._doors:
            self._doors[wished] = _Door(_listen(wished))
        return self._doors[wished]


def _listen(wished: int) -> socket.socket:
    for port in range(wished, wished + TRIES):
        with contextlib.suppress(OSError):
            listener = socket.create_server((_LOOPBACKS[0], port), backlog=WAITING_MOST)
            listener.setblocking(False)
            return listener
    raise Refused("exists", f"The ports from {wished} on are all taken")


async def _connect(port: int, addresses: tuple[str, ...]) -> socket.socket:
    """A connection to the first of these addresses on which something takes it."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            for address in addresses:
                with contextlib.suppress(OSError):
                    return await _connect_to(address, port)
    except TimeoutError:
        raise Refused("not_running", f"What listens on port {port} takes no connections") from None
    raise Refused("not_running", f"Nothing listens on port {port}")


async def _connect_to(address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(made, (address, port))
    except BaseException:
        made.close()
        raise
    return made


async def _relay(call: Call, program: socket.socket) -> None:
    """Until the program has said all it had and the host too, or either is gone."""
    inward = asyncio.create_task(_inward(call, program))
    outward = asyncio.create_task(_outward(call, program))
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


async def _inward(call: Call, program: socket.socket) -> None:
    """A program that takes no more may have answered already: what it has said is still to be read then."""
    takes = True
    while True:
        kind, payload = await call.connection.receive()
        if kind not in (frames.DATA, frames.END):
            raise BadFrame(f"a port takes no frames of type {kind}")
        try:
            if kind == frames.END:
                program.shutdown(socket.SHUT_WR)
            elif takes:
                await asyncio.get_running_loop().sock_sendall(program, payload)
        except OSError:
            takes = False
        if kind == frames.END:
            return


async def _outward(call: Call, program: socket.socket) -> None:
    while data := await asyncio.get_running_loop().sock_recv(program, frames.DATA_MOST):
        await call.connection.send(frames.DATA, data)
    await call.end()
