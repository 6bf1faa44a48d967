"""Bodies and queries as types, and the sentences that say what is wrong with them."""

import base64
import binascii
import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError

from boxkeep_server.model.errors import Invalid

MOST_QUERY_FIELDS = 64
SHOWN = 100


class Fields(BaseModel):
    """A body or a part of one: camelCase, immutable, strict about names and types."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        validate_default=False,
        hide_input_in_errors=True,
    )


class Query(Fields):
    """A query string: its values come as text."""


class Nothing(Fields):
    """A body or query without any field."""


F = TypeVar("F", bound=Fields)


def sentence(text: str) -> PydanticCustomError:
    """An error of validation whose text goes to the client as it is."""
    return PydanticCustomError("sentence", "{sentence}", {"sentence": text})


def _whole_number(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("int_type", "must be a whole number")


def _flag(value: object) -> object:
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise PydanticCustomError("bool_type", "must be true or false")
    return value == "true"


def _without_nul(value: object) -> object:
    if isinstance(value, str) and "\0" in value:
        raise PydanticCustomError("nul", "must not contain NUL")
    return value


QueryInt = Annotated[int, BeforeValidator(_whole_number)]
QueryFlag = Annotated[bool, BeforeValidator(_flag)]
Text = Annotated[str, BeforeValidator(_without_nul)]
SomeId = Annotated[Text, Field(min_length=1, max_length=200)]
"""What may be an id; whether it is anybody's is asked elsewhere."""


class OfSandbox(Query):
    """A query about a sandbox."""

    id: SomeId


def check_fields(kind: type[F], value: Mapping[str, Any]) -> F:
    """`value` as `kind`.

    Raises:
        Invalid: with a sentence that names the first field that is wrong.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise Invalid(_sentence_of(kind, error.errors(include_url=False, include_input=False)[0])) from error


def parse_query(kind: type[F], query: bytes) -> F:
    """A query string as `kind`.

    Raises:
        Invalid: it is not UTF-8, names a field twice, or a field is unknown or wrong.
    """
    if not query:
        return check_fields(kind, {})
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_QUERY_FIELDS
        )
    except ValueError as error:
        raise Invalid("The query is not UTF-8 text, or has too many fields") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Invalid(f"The query names '{twice[:SHOWN]}' twice")
    return check_fields(kind, fields)


def decode_base64(text: str, field: str) -> bytes:
    """The bytes of a base64 field.

    Raises:
        Invalid: it is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid(f"Invalid {field}: must be base64") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """«. Did you mean 'x'?» where a known name is near, else nothing."""
    found = difflib.get_close_matches(name[:SHOWN].lower(), {item.lower(): item for item in known}, 1, 0.6)
    by_lower = {item.lower(): item for item in known}
    return f". Did you mean '{by_lower[found[0]]}'?" if found else ""


def _sentence_of(kind: type[Fields], error: ErrorDetails) -> str:
    path = ".".join(str(part) for part in error["loc"])[: 2 * SHOWN]
    match error["type"]:
        case "sentence":
            return error["msg"]
        case "missing":
            return f"{path} is required"
        case "extra_forbidden":
            name = str(error["loc"][-1])
            return f"Unknown field '{path}'{nearest(name, _names_at(kind, error['loc'][:-1]))}"
        case _:
            return f"Invalid {path}: {_wrong(error)}"


_WRONG = {
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of: {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_long": "must have at most {max_length} characters",
    "too_long": "must have at most {max_length} items",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
}


def _wrong(error: ErrorDetails) -> str:
    said = _WRONG.get(error["type"])
    if said is None:
        return error["msg"]
    text = said.format(**error.get("ctx", {}))
    return text.replace("'", "").replace(" or ", ", ") if error["type"] == "literal_error" else text


def _names_at(kind: type[Fields], path: tuple[int | str, ...]) -> list[str]:
    """The aliases of the fields of the model that `path` leads to."""
    at: type[BaseModel] | None = kind
    for part in path:
        at = _model_of(at, part) if at is not None else None
    return [field.alias or name for name, field in at.model_fields.items()] if at is not None else []


def _model_of(kind: type[BaseModel], alias: int | str) -> type[BaseModel] | None:
    for name, field in kind.model_fields.items():
        if (field.alias or name) == alias:
            candidates = getattr(field.annotation, "__args__", (field.annotation,))
            return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)
    return None
