"""Small documents, made by hand: of every kind one to begin from, and some that mean no good."""

import io
import zipfile
from collections.abc import Mapping

MARK = "Boxkeep"

TEXT = f"{MARK} keeps boxes.\n\nÜnïcode, 日本語, and a last line.\n"
SHEET = f"{MARK},amount\nbolts,3\n=1+2,4\n"
SVG = (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="200" height="100"><rect width="90" height="50" fill="#c33"/>'
    f'<text x="10" y="80" font-family="DejaVu Sans" font-size="20">{MARK}</text></svg>'
)
GIF = bytes.fromhex("47494638396101000100800000ff0000ffffff2c00000000010001000002024401003b")
WEBP = bytes.fromhex("524946461a000000574542505650384c0d0000002f00000010071011118888fe0700")

_NAMES = {
    name: f"urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"
    for name in ("office", "text", "drawing", "presentation", "style", "script", "manifest")
}
_SPACES = " ".join(
    [
        f'xmlns:office="{_NAMES["office"]}" xmlns:text="{_NAMES["text"]}" xmlns:draw="{_NAMES["drawing"]}"',
        f'xmlns:presentation="{_NAMES["presentation"]}" xmlns:style="{_NAMES["style"]}"',
        f'xmlns:script="{_NAMES["script"]}" xmlns:xlink="http://www.w3.org/1999/xlink"',
        'xmlns:svg="urn:oasis:names:tc:opendocument:xmlns:svg-compatible:1.0"',
        'xmlns:ooo="http://openoffice.org/2004/office"',
    ]
)


def open_document(kind: str, body: str, files: Mapping[str, str] | None = None, head: str = "") -> bytes:
    """An OpenDocument file of a kind (text, presentation, graphics) with this body; `files` are more of it, by
    their names, and `head` is what stands before the body."""
    media = f"application/vnd.oasis.opendocument.{kind}"
    files = dict(files or {})
    content = f"<office:document-content {_SPACES} office:version='1.2'>{head}<office:body>{body}</office:body>"
    entries = "".join(
        f'<manifest:file-entry manifest:full-path="{name}" manifest:media-type="text/xml"/>'
        for name in ("content.xml", *files)
    )
    manifest = (
        f'<manifest:manifest xmlns:manifest="{_NAMES["manifest"]}">'
        f'<manifest:file-entry manifest:full-path="/" manifest:media-type="{media}"/>{entries}</manifest:manifest>'
    )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("mimetype", media)
        archive.writestr("content.xml", f"{content}</office:document-content>")
        for name, text in {"META-INF/manifest.xml": manifest, **files}.items():
            archive.writestr(name, text)
    return packed.getvalue()


def slides() -> bytes:
    """Two slides."""
    pages = "".join(
        f'<draw:page draw:name="p{number}"><draw:frame svg:x="2cm" svg:y="2cm" svg:width="20cm" svg:height="3cm">'
        f"<draw:text-box><text:p>{MARK} {number}</text:p></draw:text-box></draw:frame></draw:page>"
        for number in (1, 2)
    )
    return open_document("presentation", f"<office:presentation>{pages}</office:presentation>")


def with_a_macro(line: str) -> bytes:
    """A text that runs a line of Basic when it is opened, where that is allowed."""
    listener = (
        '<office:scripts><office:event-listeners><script:event-listener script:language="ooo:script" '
        'script:event-name="dom:load" xlink:type="simple" '
        'xlink:href="vnd.sun.star.script:Standard.One.Main?language=Basic&amp;location=document"/>'
        "</office:event-listeners></office:scripts>"
    )
    space = 'xmlns:library="http://openoffice.org/2000/library" xmlns:xlink="http://www.w3.org/1999/xlink"'
    source = line.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    libraries = '<library:library library:name="Standard" library:link="false"/>'
    return open_document(
        "text",
        f"<office:text><text:p>{MARK}</text:p></office:text>",
        {
            "Basic/script-lc.xml": f"<library:libraries {space}>{libraries}</library:libraries>",
            "Basic/Standard/script-lb.xml": f'<library:library {space} library:name="Standard" '
            'library:readonly="false" library:passwordprotected="false"><library:element library:name="One"/>'
            "</library:library>",
            "Basic/Standard/One.xml": '<script:module xmlns:script="http://openoffice.org/2000/script" '
            f'script:name="One" script:language="StarBasic">Sub Main\n{source}\nEnd Sub\n</script:module>',
        },
        listener,
    )


def with_links(url: str) -> bytes:
    """A text with a picture and a section that lie elsewhere."""
    picture = (
        f'<draw:frame svg:width="2cm" svg:height="2cm"><draw:image xlink:href="{url}/picture.png" '
        'xlink:type="simple" xlink:show="embed" xlink:actuate="onLoad"/></draw:frame>'
    )
    section = (
        f'<text:section text:name="s"><text:section-source xlink:href="{url}/section.odt" '
        'xlink:type="simple"/><text:p>old</text:p></text:section>'
    )
    return open_document("text", f"<office:text><text:p>{MARK} {picture}</text:p>{section}</office:text>")


def with_a_comment() -> bytes:
    """A text with a comment at its margin, and a page break."""
    comment = "<office:annotation><text:p>a word at the margin</text:p></office:annotation>"
    styles = (
        '<office:automatic-styles><style:style style:name="P" style:family="paragraph"><style:paragraph-properties '
        'xmlns:fo="urn:oasis:names:tc:opendocument:xmlns:xsl-fo-compatible:1.0" fo:break-before="page"/>'
        "</style:style></office:automatic-styles>"
    )
    body = f'<office:text><text:p>{MARK}{comment}</text:p><text:p text:style-name="P">two</text:p></office:text>'
    return open_document("text", body, head=styles)


def protected() -> bytes:
    """A text that says of itself that it is encrypted."""
    manifest = (
        f'<manifest:manifest xmlns:manifest="{_NAMES["manifest"]}"><manifest:file-entry '
        'manifest:full-path="content.xml" manifest:media-type="text/xml"><manifest:encryption-data/>'
        "</manifest:file-entry></manifest:manifest>"
    )
    return open_document("text", "<office:text/>", {"META-INF/manifest.xml": manifest})
