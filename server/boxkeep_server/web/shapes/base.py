"""What all answers have in common: the form of a shape, of an error, and of a token."""

from functools import cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Shape(BaseModel):
    """The form of an answer; clients must ignore fields that they do not know."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


MARK = "x-secret"


Secret = Annotated[str, Field(json_schema_extra={MARK: True})]
"""Text that carries a signed token: whoever has it may use it."""


@cache
def carries_token(shape: type[BaseModel]) -> bool:
    """Whether an answer of this shape carries a signed token."""
    return f"'{MARK}'" in repr(shape.model_json_schema())


class ErrorShape(Shape):
    """Every error."""

    model_config = ConfigDict(extra="allow")
    error: str = Field(description="A sentence that says what is wrong.")
    code: str | None = Field(default=None, description="A stable code, where there is one.")
    required_plan: str | None = Field(default=None, description="The lowest plan that has what was asked for.")
    current_plan: str | None = Field(default=None, description="The plan of the caller's organisation.")
    limit_ms: int | None = Field(default=None, description="The plan's limit, where a duration is over it.")
    limit_bytes: int | None = Field(default=None, description="The limit of the body, where that is too large.")
    detail: str | None = None
    request_id: str | None = Field(default=None, description="With a 500: the id under which it is in the log.")


class Ok(Shape):
    """Done."""

    ok: Literal[True]


class AnyObject(Shape):
    """Some object."""

    model_config = ConfigDict(extra="allow")
