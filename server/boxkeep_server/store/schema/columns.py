"""What all tables are made of."""

from enum import StrEnum
from typing import Final

import sqlalchemy as sa

_NAMES: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

metadata: Final = sa.MetaData(naming_convention=_NAMES)


def identifier(name: str = "id", **options: object) -> "sa.Column[str]":
    """An id of ours."""
    return sa.Column(name, sa.String(32), **options)  # type: ignore[arg-type]


def number() -> "sa.Column[int]":
    """A key that the database counts up."""
    kind = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    return sa.Column("id", kind, primary_key=True, autoincrement=True)


def big(name: str, **options: object) -> "sa.Column[int]":
    """A whole number that may be larger than 32 bits: milliseconds, bytes."""
    return sa.Column(name, sa.BigInteger, **options)  # type: ignore[arg-type]


def among(column: str, values: type[StrEnum]) -> str:
    """A condition: one of these."""
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


def partial_index(name: str, *columns: str, where: sa.TextClause, unique: bool = False) -> sa.Index:
    """An index of the rows for which a condition holds."""
    return sa.Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)
