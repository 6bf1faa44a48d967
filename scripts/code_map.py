"""Write the code map of ARCHITECTURE.md from the first sentence of every module; `--check` only compares."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- code map: begin -->", "<!-- code map: end -->"
PACKAGES = (
    "sdk/boxkeep",
    "server/boxkeep_server",
    "guest/boxkeep_guest",
    "guest/boxkeep_desktop",
    "guest/boxkeep_agent",
    "guest/boxkeep_tools",
)


def first_sentence(module: Path) -> str:
    """The first line of a module's docstring.

    Raises:
        SystemExit: the module has none.
    """
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    if not text:
        raise SystemExit(f"{module.relative_to(ROOT)} does not begin with a sentence")
    return text.splitlines()[0]


def rows(package: Path) -> Iterator[str]:
    """A heading and a table for each folder of a package, top down."""
    for folder in sorted({path.parent for path in package.rglob("*.py")}):
        modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        opening = folder / "__init__.py"
        about = first_sentence(opening) if opening.exists() else ""
        yield f"\n**`{folder.relative_to(ROOT)}/`** {about}\n"
        if modules:
            yield "| module | |\n|---|---|"
        for module in modules:
            yield f"| `{module.name}` | {first_sentence(module)} |"


def main() -> None:
    """Write the map, or with `--check` end with 1 when the page differs from the code."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    body = "\n".join(line for package in PACKAGES for line in rows(ROOT / package))
    wanted = f"{before}{BEGIN}\n{body}\n{END}{after}"
    if "--check" not in sys.argv:
        PAGE.write_text(wanted, encoding="utf-8")
    elif wanted != page:
        raise SystemExit("ARCHITECTURE.md is behind the code: run scripts/code_map.py")


if __name__ == "__main__":
    main()
