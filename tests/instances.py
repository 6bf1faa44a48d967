"""The instance of a test run and those beside it: their names, their sandboxes' networks and the run's ports.

What the environment says: `TEST_INSTANCE` (name, six letters at most) and `TEST_SUBNET` (network, a /16 of 10/8 that no
other run has).
"""

import os
import socket
from dataclasses import dataclass
from itertools import cycle, islice

PORTS_OF_A_RUN = 80


@dataclass(frozen=True)
class Instance:
    """A name, and the network of the sandboxes of what carries it."""

    name: str
    subnet: str

    @property
    def number(self) -> int:
        """What tells its network from those of others."""
        return int(self.subnet.split(".")[1])

    def beside(self, letter: str) -> "Instance":
        """One that runs beside this one in the same test run."""
        return self._with(letter, 0x80 ^ ord(letter) % 8)

    def lane(self, letter: str) -> "Instance":
        """That of a test run beside this one, which has instances beside it as well."""
        return self._with(letter, 0x10)

    def _with(self, letter: str, bits: int) -> "Instance":
        return Instance(f"{self.name}{letter}", f"10.{self.number ^ bits}.0.0/16")


OWN = Instance(os.environ.get("TEST_INSTANCE", "accept"), os.environ.get("TEST_SUBNET", "10.206.0.0/16"))
_FIRST = 10_000 + PORTS_OF_A_RUN * OWN.number
_PORTS = cycle(range(_FIRST, _FIRST + PORTS_OF_A_RUN))


def free_port() -> int:
    """A TCP port of loopback that nothing listens on, and that nobody else comes to have before it is used.

    They are the run's own and below those that the kernel gives to connections: a service that is killed and started
    again finds its port as it left it, whatever runs beside it.
    """
    return next(port for port in islice(_PORTS, PORTS_OF_A_RUN) if _is_free(port))


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: who has gone does not count
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
