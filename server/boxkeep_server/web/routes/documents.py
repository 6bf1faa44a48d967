"""Documents: files of a sandbox converted between the formats of offices, PDF, images and texts."""

from typing import Annotated

from pydantic import Field
from starlette.responses import Response

from boxkeep_server.control.documents import TIMEOUT_MOST_MS, TIMEOUT_MS, Conversion
from boxkeep_server.model.rates import CallKind
from boxkeep_server.model.scopes import Scope
from boxkeep_server.web import shapes
from boxkeep_server.web.fields import Fields, Nothing, Text
from boxkeep_server.web.operations import Answer, AnyOperation, Call, Operation
from boxkeep_server.web.paths import place_of
from boxkeep_server.web.views import artifact as shown
from boxkeep_server.web.views import json_response

Path = Annotated[Text, Field(min_length=1, max_length=4096)]


class Published(Fields):
    """The artifact that the result is to be, by default under the name of its file."""

    key: Annotated[Text, Field(min_length=1, max_length=1024)] | None = None


class Convert(Fields):
    """A document to be converted."""

    id: Annotated[Text, Field(min_length=1)]
    path: Path
    format: Annotated[Text, Field(min_length=1, max_length=20)]
    output_path: Path | None = None
    page: Annotated[int, Field(ge=1, le=100_000)] | None = None
    timeout_ms: Annotated[int, Field(ge=1, le=TIMEOUT_MOST_MS)] | None = None
    artifact: Published | None = None

    def wish(self) -> Conversion:
        """The same in control's words.

        Raises:
            Invalid: as `place_of`.
        """
        for path in (self.path, self.output_path):
            if path is not None:
                place_of(path, None)
        return Conversion(
            path=self.path,
            format=self.format,
            output_path=self.output_path,
            page=self.page or 1,
            timeout_ms=self.timeout_ms or TIMEOUT_MS,
            publish=self.artifact is not None,
            key=None if self.artifact is None else self.artifact.key,
        )


async def convert(call: Call, _: Nothing, body: Convert) -> Response:
    """Convert a document."""
    made = await call.parts.documents.convert(call.caller, body.id, body.wish(), call.effect)
    return json_response(
        {
            "path": made.path,
            "format": made.format,
            "size": made.size,
            "sha256": made.sha256,
            "durationMs": made.duration_ms,
            "artifact": None if made.artifact is None else shown(made.artifact),
        }
    )


OPERATIONS: tuple[AnyOperation, ...] = (
    Operation(
        method="POST",
        path="/v1/sandboxes/documents/convert",
        name="convertDocument",
        summary="Convert a document",
        description="For sandboxes with `capabilities.documents.libreofficeHeadless: true`. The end of `path` says "
        "what the document is, `format` what it is to become; what cannot be had is a 400 that says what can. The "
        "result is at `outputPath`, by default beside the document, and with `artifact` an artifact too. `png`, `jpg` "
        "and `svg` of a document are one `page` of it. No macro runs and nothing that is linked is fetched.",
        scope=Scope.FILES,
        kind=CallKind.FILES,
        handler=convert,
        query=Nothing,
        body=Convert,
        answers={200: Answer("It is converted.", shapes.ConvertedShape)},
        faults=frozenset({404, 409, 413, 502, 503, 504, 507}),
        tag="documents",
    ),
)
