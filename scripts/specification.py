"""Hold SPECIFICATION.md to the tests: every test it names exists; `pending` promises are counted and printed."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "SPECIFICATION.md"
REFERENCE = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def missing(page: str) -> list[str]:
    """The references of the page that lead nowhere."""
    lost = []
    for file, name in REFERENCE.findall(page):
        path = ROOT / file
        if not path.exists():
            lost.append(file)
        elif name and not re.search(rf"def {name}\b", path.read_text(encoding="utf-8")):
            lost.append(f"{file}::{name}")
    return lost


def main() -> None:
    """Print how many promises are proven and pending; end with 1 where a test that is named does not exist."""
    page = PAGE.read_text(encoding="utf-8")
    lost = missing(page)
    promises = [
        line for line in page.splitlines() if line.startswith("|") and ("`tests/" in line or "*pending*" in line)
    ]
    pending = sum("*pending*" in line for line in promises)
    sys.stdout.write(f"{len(promises)} promises, {pending} pending\n")
    if lost:
        raise SystemExit("SPECIFICATION.md names tests that do not exist: " + ", ".join(lost))


if __name__ == "__main__":
    main()
