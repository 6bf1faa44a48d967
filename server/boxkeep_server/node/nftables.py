"""nft rules by libnftables in this process: the `nft` program takes a hundred times as long to begin as to act."""

import ctypes
import threading
from typing import Final

from boxkeep_server.node.netns import CommandFailed

_STATELESS: Final = 1 << 2
_JSON: Final = 1 << 4
_LIBRARY: Final = "libnftables.so.1"


class Nftables:
    """The rules of the network namespace that the calling thread was in when this was made, whoever uses it later.

    It keeps that namespace alive until it is closed. May be used from any thread, one call at a time.

    Source: libnftables(3).
    """

    def __init__(self) -> None:
        self._library = _library()
        self._turn = threading.Lock()
        self._context: int | None = self._library.nft_ctx_new(0)
        if self._context is None:
            raise CommandFailed("libnftables gives no context")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def change(self, commands: str) -> None:
        """Carry out commands, all or none.

        Raises:
            CommandFailed: in libnftables' words.
        """
        self._run(commands, 0)

    def text(self, command: str) -> str:
        """What a `list` prints, without what counts.

        Raises:
            CommandFailed
        """
        return self._run(command, _STATELESS)

    def json(self, command: str) -> str:
        """What a `list` prints as JSON. Raises as `text`."""
        return self._run(command, _JSON)

    def close(self) -> None:
        """Let the namespace go. May be repeated."""
        with self._turn:
            context, self._context = self._context, None
            if context is not None:
                self._library.nft_ctx_free(context)

    def _run(self, commands: str, flags: int) -> str:
        with self._turn:
            if self._context is None:
                raise CommandFailed("these rules were let go")
            self._library.nft_ctx_output_set_flags(self._context, flags)
            failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
            printed: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
            said: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            raise CommandFailed(f"nft: {said.decode(errors='replace').strip()[-2000:]}\n{commands[:2000]}")
        return printed.decode()


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise CommandFailed(f"{_LIBRARY} cannot be loaded: {error}") from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library
