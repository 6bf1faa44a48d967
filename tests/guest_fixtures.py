"""The fixtures of `tests.guests` as a plugin: a test module asks for it by `pytest_plugins`."""

from tests.guests import commands, guest, guest_program, own_guest, pool

__all__ = ["commands", "guest", "guest_program", "own_guest", "pool"]
