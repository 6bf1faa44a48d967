"""Keys by their names, as a keyboard of the United States has them; pure."""

from dataclasses import dataclass
from typing import Any, Final

from boxkeep_tools.faults import ToolFailed

_MODIFIERS: Final = {"Alt": 1, "Control": 2, "Ctrl": 2, "Meta": 4, "Shift": 8}
_NAMED: Final = {
    "Enter": (13, "\r"),
    "Tab": (9, ""),
    "Escape": (27, ""),
    "Backspace": (8, ""),
    "Delete": (46, ""),
    "Insert": (45, ""),
    "Home": (36, ""),
    "End": (35, ""),
    "PageUp": (33, ""),
    "PageDown": (34, ""),
    "ArrowLeft": (37, ""),
    "ArrowUp": (38, ""),
    "ArrowRight": (39, ""),
    "ArrowDown": (40, ""),
    **{f"F{number}": (111 + number, "") for number in range(1, 13)},
}
_EDITS: Final = {"a": "selectAll", "c": "copy", "v": "paste", "x": "cut", "z": "undo", "y": "redo"}
NAMES: Final = ", ".join(name for name in _NAMED if not name.startswith("F"))


@dataclass(frozen=True)
class Key:
    """A key with what is held beside it, as the parameters of the two events that it makes."""

    down: dict[str, Any]
    up: dict[str, Any]


def key(name: str) -> Key:
    """The key of a name such as `Enter`, `a`, `Control+A`, `Shift+Tab`.

    Raises:
        ToolFailed: there is none.
    """
    *held, last = name.split("+") if name.strip("+") else [name]
    if not set(held) <= set(_MODIFIERS):
        raise ToolFailed(f"There is no key {name[:40]!r}. There are {NAMES}, F1 to F12, and single characters.")
    modifiers = sum({_MODIFIERS[one] for one in held})
    last = {"Space": " ", "Return": "Enter", "Esc": "Escape"}.get(last, last)
    if last in _NAMED:
        return _made(last, last, *_NAMED[last], modifiers)
    if len(last) != 1:
        raise ToolFailed(f"There is no key {name[:40]!r}. There are {NAMES}, F1 to F12, and single characters.")
    return _character(last, modifiers)


def _character(one: str, modifiers: int) -> Key:
    is_letter = one.isascii() and one.isalpha()
    code = f"Key{one.upper()}" if is_letter else f"Digit{one}" if one in "0123456789" else "Space" if one == " " else ""
    number = ord(one.upper()) if code else 0
    if modifiers & ~_MODIFIERS["Shift"]:  # it makes no text, but may be a command of the editor
        return _made(one.lower(), code, number, "", modifiers, _EDITS.get(one.lower()))
    shown = one.upper() if is_letter and modifiers else one
    return _made(shown, code, number, shown, modifiers)


def _made(name: str, code: str, number: int, text: str, modifiers: int, edit: str | None = None) -> Key:
    same = {"key": name, "code": code, "windowsVirtualKeyCode": number, "modifiers": modifiers}
    down = {"type": "keyDown" if text else "rawKeyDown", **same, **({"text": text} if text else {})}
    return Key({**down, **({"commands": [edit]} if edit else {})}, {"type": "keyUp", **same})
