"""Documents: which formats there are, what each can be converted to, and the steps that lead there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from boxkeep_server.model.errors import Invalid

_UTF8: Final = "76"
_CSV: Final = f"44,34,{_UTF8},1,,0,false,true,false"
_DPI: Final = "110"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of document in LibreOffice: the filters that read and write its formats, each with options."""

    name: str
    service: str
    reads: Mapping[str, tuple[str, str]]
    writes: Mapping[str, tuple[str, str]]
    by_pdf: tuple[str, ...]


_TEXT: Final = {
    "docx": ("MS Word 2007 XML", ""),
    "doc": ("MS Word 97", ""),
    "odt": ("writer8", ""),
    "rtf": ("Rich Text Format", ""),
    "html": ("HTML (StarWriter)", ""),
    "txt": ("Text (encoded)", "UTF8"),
}
_SHEET: Final = {
    "xlsx": ("Calc MS Excel 2007 XML", ""),
    "xls": ("MS Excel 97", ""),
    "ods": ("calc8", ""),
    "csv": ("Text - txt - csv (StarCalc)", _CSV),
}
_SLIDES: Final = {
    "pptx": ("Impress MS PowerPoint 2007 XML", ""),
    "ppt": ("MS PowerPoint 97", ""),
    "odp": ("impress8", ""),
}
_DRAWING: Final = {
    "odg": ("draw8", ""),
    "svg": ("SVG - Scalable Vector Graphics Draw", ""),
    "png": ("PNG - Portable Network Graphic", ""),
    "jpg": ("JPG - JPEG", ""),
    "gif": ("GIF - Graphics Interchange", ""),
    "webp": ("WEBP - WebP", ""),
}

KINDS: Final = (
    Kind(
        "text",
        "com.sun.star.text.TextDocument",
        _TEXT,
        {**_TEXT, "html": ("HTML (StarWriter)", "EmbedImages"), "pdf": ("writer_pdf_Export", "")},
        ("png", "jpg"),
    ),
    Kind(
        "sheet",
        "com.sun.star.sheet.SpreadsheetDocument",
        _SHEET,
        {**_SHEET, "html": ("HTML (StarCalc)", "EmbedImages"), "pdf": ("calc_pdf_Export", "")},
        ("png", "jpg"),
    ),
    Kind(
        "slides",
        "com.sun.star.presentation.PresentationDocument",
        _SLIDES,
        {**_SLIDES, "pdf": ("impress_pdf_Export", "")},
        ("txt", "png", "jpg"),
    ),
    Kind(
        "drawing",
        "com.sun.star.drawing.DrawingDocument",
        _DRAWING,
        {
            "odg": ("draw8", ""),
            "svg": ("draw_svg_Export", ""),
            "png": ("draw_png_Export", ""),
            "jpg": ("draw_jpg_Export", ""),
            "pdf": ("draw_pdf_Export", ""),
        },
        (),
    ),
)

_FROM_PDF: Final[Mapping[str, tuple[str, ...]]] = {
    "txt": ("pdftotext", "-q", "-enc", "UTF-8", "-layout", "{in}", "{out}.txt"),
    "html": ("pdftohtml", "-q", "-s", "-noframes", "-dataurls", "{in}", "{out}.html"),
    "svg": ("pdftocairo", "-svg", "-f", "{page}", "-l", "{page}", "{in}", "{out}.svg"),
    "png": ("pdftoppm", "-q", "-png", "-r", _DPI, "-singlefile", "-f", "{page}", "-l", "{page}", "{in}", "{out}"),
    "jpg": ("pdftoppm", "-q", "-jpeg", "-r", _DPI, "-singlefile", "-f", "{page}", "-l", "{page}", "{in}", "{out}"),
}
"""How poppler makes each format of a PDF: `out` is a path without its suffix."""

PAGED: Final = frozenset({"png", "jpg", "svg"})
"""Formats that hold one page."""

_OTHER_NAMES: Final = {"htm": "html", "jpeg": "jpg", "text": "txt"}


@dataclass(frozen=True, slots=True)
class Office:
    """A step by LibreOffice: the filters that read and write, what the result ends with, and the service that reads the
    document without a view; None where a view is needed. `bare`: without the comments in it."""

    reads: tuple[str, str]
    writes: tuple[str, str]
    suffix: str
    service: str | None = None
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Steps:
    """How one format becomes another: by LibreOffice, then by a program of poppler, or by one of them alone."""

    source: str
    target: str
    office: tuple[Office, ...] = ()
    tool: tuple[str, ...] | None = None


def format_of(path: str) -> str:
    """The format that the name of a file tells, in small letters; empty where it tells none."""
    name, dot, suffix = path.rpartition("/")[2].rpartition(".")
    return _plain(suffix) if name and dot else ""


def _plain(name: str) -> str:
    small = name.lower()
    return _OTHER_NAMES.get(small, small)


def targets_of(source: str) -> Sequence[str]:
    """What a document of a format can be converted to; nothing where the format is not known."""
    if source == "pdf":
        return sorted(_FROM_PDF)
    kind = _kind_of(source)
    return sorted({*kind.writes, *kind.by_pdf} - {source}) if kind is not None else ()


def sources() -> Sequence[str]:
    """Every format that something can be converted from."""
    return sorted(["pdf", *(one for kind in KINDS for one in kind.reads)])


def _kind_of(source: str) -> Kind | None:
    return next((kind for kind in KINDS if source in kind.reads), None)


def steps_to(path: str, wished: str, page: int) -> Steps:
    """How the file of this name becomes one of the wished format; of one page, where that format holds no more.

    Raises:
        Invalid: that cannot be had; the sentence says what can.
    """
    source, target = format_of(path), _plain(wished)
    targets = targets_of(source)
    if not targets:
        raise Invalid(f"Invalid path: its name must end with one of {', '.join(f'.{one}' for one in sources())}")
    if target not in targets:
        raise Invalid(f"Invalid format: {source} can be converted to {', '.join(targets)}")
    if source == "pdf":
        return Steps(source, target, tool=_tool(target, page))
    kind = _kind_of(source)
    assert kind is not None, "it has targets"
    if target in kind.by_pdf:
        return Steps(source, target, _office(kind, source, "pdf"), _tool(target, page))
    return Steps(source, target, _office(kind, source, target))


def _office(kind: Kind, source: str, target: str) -> tuple[Office, ...]:
    """Documents are read without a view: for those of comments and web pages LibreOffice's packages without a display
    lack parts, and it crashes on that. Only pages of texts need one, and get it of a text bare of comments."""
    reads, service = kind.reads[source], kind.service
    if kind.name != "text" or target != "pdf":
        return (Office(reads, kind.writes[target], target, service),)
    bare = Office(reads, kind.writes["odt"], "odt", service, bare=True)
    return bare, Office(kind.reads["odt"], kind.writes["pdf"], "pdf")


def _tool(target: str, page: int) -> tuple[str, ...]:
    return tuple(word.replace("{page}", str(page)) for word in _FROM_PDF[target])


def beside(path: str, target: str) -> str:
    """Where the result goes that no place was named for: beside the document, under its name with the new suffix."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0]}.{_plain(target)}"
