"""Write docs/reference/openapi.json from the API's declarations; `--check` only compares."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "openapi.json"


def document() -> str:
    """The document as it should be."""
    sys.path.insert(0, str(ROOT / "server"))
    from boxkeep_server.web.app import described  # noqa: PLC0415 - the path above comes first

    return json.dumps(described(), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write or compare."""
    wanted = document()
    if "--check" in sys.argv[1:]:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == wanted:
            return 0
        sys.stderr.write(f"{PAGE.relative_to(ROOT)} is stale: run `make generate`\n")
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
