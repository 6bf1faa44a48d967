"""Start the desktop: `python3 -I -S -B <directory>/boxkeep_desktop/__main__.py`, and tell it a wish."""

import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/")[0].rpartition("/")[0])
    for unwanted in ("ssl", "_hashlib"):  # the bundle has none of OpenSSL
        sys.modules[unwanted] = None  # type: ignore[assignment]
    from boxkeep_desktop.program import main

    sys.exit(main())
