"""Answers about files, documents and artifacts."""

from typing import Literal

from pydantic import RootModel

from boxkeep_server.web.shapes.base import Secret, Shape


class Written(Shape):
    """How much of stdin was taken."""

    written: int


class EntryShape(Shape):
    """A file, directory or link; names that are not UTF-8 come as base64 instead."""

    name: str | None = None
    path: str | None = None
    type: Literal["file", "directory", "symlink", "other"]
    size: int
    mode: int
    modified_at: int
    uid: int | None = None
    gid: int | None = None
    target: str | None = None
    name_base64: str | None = None
    path_base64: str | None = None
    target_base64: str | None = None


class EntryAnswer(Shape):
    """One entry."""

    id: str
    entry: EntryShape


class EntryList(Shape):
    """What a directory holds."""

    path: str | None = None
    path_base64: str | None = None
    entries: list[EntryShape]


class FileContent(Shape):
    """A file's content."""

    path: str | None = None
    path_base64: str | None = None
    content: str
    encoding: Literal["utf-8", "base64"]
    size: int


class SignedUrl(Shape):
    """A URL that anyone may use until it expires."""

    url: Secret
    method: Literal["GET", "PUT"]
    expires_at: int


class ArtifactShape(Shape):
    """A file that outlives its sandbox."""

    key: str
    size: int
    content_type: str
    sha256: str
    created_at: int
    sandbox_id: str


class ConvertedShape(Shape):
    """A document that was converted."""

    path: str
    format: str
    size: int
    sha256: str
    duration_ms: int
    artifact: ArtifactShape | None


class ArtifactsShape(Shape):
    """What of a folder was published, and the paths of what was not."""

    items: list[ArtifactShape]
    skipped: list[str]


class PublishedShape(RootModel[ArtifactShape | ArtifactsShape]):
    """With `path` that artifact, without it those of the folder."""


class ArtifactList(Shape):
    """A page of artifacts; `nextCursor` is the last one's key."""

    items: list[ArtifactShape]
    next_cursor: str | None


class ArtifactUrl(Shape):
    """A URL by which anyone may download an artifact until it expires."""

    url: Secret
    expires_at: int
