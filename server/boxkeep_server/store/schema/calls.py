"""What was done: events, commands, and answers that are kept under keys."""

import sqlalchemy as sa

from boxkeep_server.model.commands import Outcome
from boxkeep_server.store.schema.columns import among, big, identifier, metadata, number, partial_index

events = sa.Table(
    "events",
    metadata,
    number(),
    identifier("sandbox", nullable=False),
    identifier("organisation", nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("type", sa.String(64), nullable=False),
    big("at", nullable=False),
    sa.Column("actor", sa.String(64), nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.UniqueConstraint("sandbox", "sequence"),
)

commands = sa.Table(
    "commands",
    metadata,
    identifier(primary_key=True),
    identifier("sandbox", nullable=False),
    identifier("organisation", nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("line", sa.Text, nullable=False),
    sa.Column("cwd", sa.Text, nullable=False),
    sa.Column("user", sa.Text, nullable=False),
    sa.Column("background", sa.Boolean, nullable=False),
    sa.Column("pty", sa.Boolean, nullable=False),
    big("timeout_ms"),
    big("started_at", nullable=False),
    identifier("started_by", nullable=False),
    big("ended_at"),
    sa.Column("outcome", sa.String(32)),
    sa.Column("exit_code", sa.Integer),
    sa.Column("signal", sa.Integer),
    sa.Column("reason", sa.Text),
    big("stdout_bytes"),
    big("stderr_bytes"),
    sa.Column("stdout_tail", sa.LargeBinary),
    sa.Column("stderr_tail", sa.LargeBinary),
    sa.CheckConstraint("(outcome IS NULL) = (ended_at IS NULL)", name="one_outcome"),
    sa.CheckConstraint(f"outcome IS NULL OR {among('outcome', Outcome)}", name="outcome"),
    sa.Index("ix_commands_of", "sandbox", "started_at", "id"),
    partial_index("ix_commands_open", "sandbox", where=sa.text("outcome IS NULL")),
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    identifier("organisation", primary_key=True),
    sa.Column("route", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    identifier("effect", nullable=False),
    identifier("owner", nullable=False),
    big("created_at", nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("body", sa.LargeBinary),
    sa.Index("ix_idempotency_age", "created_at"),
)
"""An answer kept under its key. `effect` is the id that what is made gets, drawn before it is made: a repetition
after a crash makes the same thing. `owner` is the process that is at it."""
