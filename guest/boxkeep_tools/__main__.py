"""Start the tools: `python3 -I -S -B <directory>/boxkeep_tools/__main__.py [--browser [--person]]`."""

import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/")[0].rpartition("/")[0])
    for unwanted in ("ssl", "_hashlib"):  # the bundle has none of OpenSSL
        sys.modules[unwanted] = None  # type: ignore[assignment]
    from boxkeep_tools.program import main

    sys.exit(main(sys.argv[1:]))
