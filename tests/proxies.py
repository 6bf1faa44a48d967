"""A real proxy that demands a password, by HTTP and by SOCKS alike."""

from typing import Final

_MAIN: Final = "import sys; sys.modules['uvloop'] = None; from pproxy.server import main; main(sys.argv[1:])"


def proxy_words(listen: str, user: str, password: str) -> list[str]:
    """The arguments of a Python, with the package `pproxy` in sight, that make it be one. Whoever has said the password
    once has to say it again the next time."""
    return ["-c", _MAIN, "-l", f"http+socks5://{listen}/#{user}:{password}", "--auth", "0"]
