"""Epochs of machines by their roles, as a column holds them: JSON, NULL where there are none."""

from collections.abc import Mapping

import orjson

from boxkeep_server.model.node_api import Role


def to_column(epochs: Mapping[Role, int]) -> str | None:
    """What is written."""
    return orjson.dumps(dict(epochs)).decode() if epochs else None


def from_column(stored: str | None) -> dict[Role, int]:
    """What was written."""
    epochs: dict[Role, int] = {} if stored is None else orjson.loads(stored)
    return epochs
