"""Start the desktop: `python3 -m boxkeep_desktop <wish>`."""

import sys

from boxkeep_desktop.program import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
