"""Whose sandboxes they are: plans, organisations, keys, and what was told of their limits."""

import sqlalchemy as sa

from boxkeep_server.store.schema.columns import big, identifier, metadata

plans = sa.Table(
    "plans",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    big("max_duration_ms"),
    sa.Column("concurrent", sa.Integer),
    big("month_ms"),
    big("stored_bytes"),
    sa.Column("paused", sa.Integer),
    sa.Column("features", sa.Text, nullable=False),
)

organisations = sa.Table(
    "organisations",
    metadata,
    identifier(primary_key=True),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("plan", sa.String(64), sa.ForeignKey("plans.name"), nullable=False),
    big("created_at", nullable=False),
)

keys = sa.Table(
    "keys",
    metadata,
    identifier(primary_key=True),
    identifier("organisation", nullable=False, index=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("hint", sa.String(8), nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    big("created_at", nullable=False),
    big("expires_at"),
    big("revoked_at"),
    sa.ForeignKeyConstraint(["organisation"], ["organisations.id"]),
)

limit_notices = sa.Table(
    "limit_notices",
    metadata,
    identifier("organisation", primary_key=True),
    sa.Column("month", sa.String(7), primary_key=True),
    sa.Column("percent", sa.Integer, primary_key=True),
    big("at", nullable=False),
)
"""Which part of its hours an organisation was told to have used: once a month each, in the transaction that tells."""
