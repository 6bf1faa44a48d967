"""Start the guest: `python3 -I -S -B <directory>/boxkeep_guest <bootfile>`."""

import sys


def _prepare_imports() -> None:
    """Let the package be found from a directory or a zip, and keep OpenSSL out: it costs start-up and memory."""
    if not __package__:
        sys.path[0] = sys.path[0].rpartition("/")[0] or "."
    for unwanted in ("ssl", "_hashlib"):
        sys.modules[unwanted] = None  # type: ignore[assignment]


if __name__ == "__main__":
    _prepare_imports()
    from boxkeep_guest.program import main

    sys.exit(main(sys.argv[1:]))
