"""When sandboxes ran, and by which clock."""

import sqlalchemy as sa

from boxkeep_server.store.schema.columns import big, identifier, metadata, number, partial_index

spans = sa.Table(
    "spans",
    metadata,
    number(),
    identifier("sandbox", nullable=False),
    identifier("organisation", nullable=False),
    big("start", nullable=False),
    big("end"),
    sa.CheckConstraint('"end" IS NULL OR "end" >= start', name="forward"),
    partial_index("ix_spans_open_of", "organisation", where=sa.text('"end" IS NULL')),
    partial_index("ix_spans_ended_of", "organisation", "end", "start", "sandbox", where=sa.text('"end" IS NOT NULL')),
    partial_index("uq_spans_open", "sandbox", where=sa.text('"end" IS NULL'), unique=True),
)
"""When sandboxes ran: written with the events that begin and end a run, never beside them."""

month_sums = sa.Table(
    "month_sums",
    metadata,
    identifier("organisation", primary_key=True),
    sa.Column("month", sa.String(7), primary_key=True),
    big("ms", nullable=False),
    sa.CheckConstraint("ms >= 0", name="forward"),
)
"""The ended spans of an organisation, summed by UTC month when they end, so that a limit is checked by one row."""

clocks = sa.Table(
    "clocks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("boot_id", sa.String(64), nullable=False),
    big("ahead_ms", nullable=False),
    sa.CheckConstraint("id = 1", name="one"),
)
"""What the instance's clock is ahead of the uptime of a boot of its host: one row."""
