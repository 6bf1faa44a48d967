"""Write docs/reference/settings.md from the settings tree; `--check` only compares."""

import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from boxkeep_server.settings import Settings

PAGE = Path(__file__).resolve().parent.parent / "docs/reference/settings.md"
HEAD = """# Settings

Read once at start: from the TOML file that `BOXKEEP_CONFIG` names (`/etc/boxkeep/boxkeep.toml` by default; `make up`
writes `/etc/boxkeep/<instance>.toml`), then from the environment, where `BOXKEEP_NODE__REGION=lhr` sets `region` of
`[node]`. Unknown names are errors. This page is generated.
"""


def rows(section: type[BaseModel], path: str) -> Iterator[str]:
    """A table of a section, then its sections."""
    nested = []
    yield f"\n## {f'`[{path}]`' if path else 'Top level'}\n\n{section.__doc__}\n\n| name | default | |\n|---|---|---|"
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            nested.append((field.annotation, f"{path}.{name}".lstrip(".")))
        else:
            yield f"| `{name}` | {default(field)} | {field.description} |"
    for inner, name in nested:
        yield from rows(inner, name)


def default(field: FieldInfo) -> str:
    """A field's default as it would be written."""
    value = field.get_default(call_default_factory=True)
    return "-" if value is None else f"`{value}`"


def main() -> None:
    """Write the page, or with `--check` end with 1 when it differs."""
    wanted = HEAD + "\n".join(rows(Settings, "")) + "\n"
    if "--check" not in sys.argv:
        PAGE.write_text(wanted, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != wanted:
        raise SystemExit("docs/reference/settings.md is behind the code: make generate")


if __name__ == "__main__":
    main()
