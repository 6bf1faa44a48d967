"""Webhooks, and what is owed to them."""

import sqlalchemy as sa

from boxkeep_server.model.webhooks import DeliveryState, DisabledReason
from boxkeep_server.store.schema.columns import among, big, identifier, metadata, partial_index

webhooks = sa.Table(
    "webhooks",
    metadata,
    identifier(primary_key=True),
    identifier("organisation", nullable=False, index=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("event_types", sa.Text),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("disabled_reason", sa.String(16)),
    big("disabled_at"),
    big("failing_since"),
    big("created_at", nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("sealed_before", sa.LargeBinary),
    big("before_until"),
    sa.ForeignKeyConstraint(["organisation"], ["organisations.id"]),
    sa.CheckConstraint(among("disabled_reason", DisabledReason), name="disabled_reason"),
    sa.CheckConstraint("enabled = (disabled_reason IS NULL)", name="disabled_for_a_reason"),
    sa.CheckConstraint("enabled = (disabled_at IS NULL)", name="disabled_at_a_time"),
    sa.CheckConstraint("(sealed_before IS NULL) = (before_until IS NULL)", name="secret_before"),
)
"""Where events are sent. `sealed` is the secret that signs, `sealed_before` the one before it, until `before_until`."""

deliveries = sa.Table(
    "deliveries",
    metadata,
    identifier(primary_key=True),
    identifier("webhook", nullable=False),
    sa.Column("message", sa.String(80), nullable=False),
    sa.Column("type", sa.String(64), nullable=False),
    identifier("sandbox"),
    sa.Column("sequence", sa.Integer),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    big("created_at", nullable=False),
    big("due_at"),
    big("give_up_at", nullable=False),
    big("attempted_at"),
    big("delivered_at"),
    sa.Column("status", sa.Integer),
    sa.Column("error", sa.Text),
    sa.CheckConstraint(among("state", DeliveryState), name="state"),
    sa.CheckConstraint("(state = 'pending') = (due_at IS NOT NULL)", name="pending_is_due"),
    sa.CheckConstraint("(state = 'delivered') = (delivered_at IS NOT NULL)", name="delivered_at_a_time"),
    sa.CheckConstraint("attempts >= 0 AND tries >= 0", name="counts"),
    sa.Index("ix_deliveries_listed", "webhook", "created_at", "id"),
    sa.Index("ix_deliveries_age", "created_at"),
    partial_index("ix_deliveries_due", "webhook", "due_at", where=sa.text("due_at IS NOT NULL")),
    partial_index(
        "ix_deliveries_untried", "webhook", "sandbox", "sequence", where=sa.text("due_at IS NOT NULL AND attempts = 0")
    ),
)
"""What is owed to webhooks, written with the event. Nothing refers to the webhook's row: a step of a sandbox must
never wait for, or fail with, the deletion of a webhook; what is left of one grows old and is collected."""
