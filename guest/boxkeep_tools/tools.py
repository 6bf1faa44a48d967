"""What a tool is: its name and words for an agent, the arguments that it takes, and what it does."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from boxkeep_tools.faults import ToolFailed

Content = dict[str, Any]
Arguments = dict[str, Any]
Run = Callable[[Arguments], Awaitable[Sequence[Content]]]

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {"string": (str,), "integer": (int,), "boolean": (bool,)}


@dataclass(frozen=True)
class Tool:
    """One tool. `properties` are JSON schemas of its arguments, of texts, whole numbers and truths alone.

    `run` answers what there is to say, or raises ToolFailed.
    """

    name: str
    title: str
    description: str
    run: Run
    properties: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    only_reads: bool = False

    @property
    def told(self) -> dict[str, Any]:
        """It as a client is told of it."""
        schema = {"type": "object", "properties": self.properties, "additionalProperties": False}
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "inputSchema": {**schema, "required": list(self.required)} if self.required else schema,
            "annotations": {"title": self.title, "readOnlyHint": self.only_reads, "openWorldHint": True},
        }

    def checked(self, arguments: Any) -> Arguments:
        """The arguments if they are as the schema has them.

        Raises:
            ToolFailed: the sentence says which is not.
        """
        if not isinstance(arguments, dict):
            raise ToolFailed(f"The arguments of {self.name} must be an object.")
        given = {name: value for name, value in arguments.items() if value is not None}
        for name in self.required:
            if name not in given:
                raise ToolFailed(f"{self.name} needs the argument {name}.")
        for name, value in given.items():
            if name not in self.properties:
                known = ", ".join(self.properties) or "none"
                raise ToolFailed(f"{self.name} has no argument {json.dumps(name)[:80]}. It takes: {known}.")
            _check(name, self.properties[name], value)
        return given


def _check(name: str, schema: Mapping[str, Any], value: Any) -> None:
    kind = schema["type"]
    if not isinstance(value, _TYPES[kind]) or (kind == "integer" and isinstance(value, bool)):
        raise ToolFailed(f"The argument {name} must be of the type {kind}.")
    if "enum" in schema and value not in schema["enum"]:
        raise ToolFailed(f"The argument {name} must be one of: {', '.join(schema['enum'])}.")
    if isinstance(value, str) and len(value) > schema.get("maxLength", len(value)):
        raise ToolFailed(f"The argument {name} is longer than {schema['maxLength']} characters.")
    if kind == "integer" and not schema["minimum"] <= value <= schema["maximum"]:
        raise ToolFailed(f"The argument {name} must be from {schema['minimum']} to {schema['maximum']}.")


def text(words: str) -> Content:
    """Text for the agent."""
    return {"type": "text", "text": words}


def image(data: str, mime_type: str) -> Content:
    """A picture for the agent; `data` is its base64."""
    return {"type": "image", "data": data, "mimeType": mime_type}
