"""Webhooks, and what is owed to them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("webhook", sa.String(length=32), nullable=False),
        sa.Column("message", sa.String(length=80), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("sandbox", sa.String(length=32), nullable=True),
        sa.Column("sequence", sa.Integer(), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("give_up_at", sa.BigInteger(), nullable=False),
        sa.Column("attempted_at", sa.BigInteger(), nullable=True),
        sa.Column("delivered_at", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(state = 'delivered') = (delivered_at IS NOT NULL)", name=op.f("ck_deliveries_delivered_at_a_time")
        ),
        sa.CheckConstraint("(state = 'pending') = (due_at IS NOT NULL)", name=op.f("ck_deliveries_pending_is_due")),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'failed')", name=op.f("ck_deliveries_state")),
        sa.CheckConstraint("attempts >= 0 AND tries >= 0", name=op.f("ck_deliveries_counts")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        batch_op.create_index("ix_deliveries_age", ["created_at"], unique=False)
        batch_op.create_index(
            "ix_deliveries_due",
            ["webhook", "due_at"],
            unique=False,
            sqlite_where=sa.text("due_at IS NOT NULL"),
            postgresql_where=sa.text("due_at IS NOT NULL"),
        )
        batch_op.create_index("ix_deliveries_listed", ["webhook", "created_at", "id"], unique=False)
        batch_op.create_index(
            "ix_deliveries_untried",
            ["webhook", "sandbox", "sequence"],
            unique=False,
            sqlite_where=sa.text("due_at IS NOT NULL AND attempts = 0"),
            postgresql_where=sa.text("due_at IS NOT NULL AND attempts = 0"),
        )

    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("organisation", sa.String(length=32), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("event_types", sa.Text(), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("disabled_reason", sa.String(length=16), nullable=True),
        sa.Column("disabled_at", sa.BigInteger(), nullable=True),
        sa.Column("failing_since", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_before", sa.LargeBinary(), nullable=True),
        sa.Column("before_until", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "disabled_reason IN ('user_request', 'failing', 'gone')", name=op.f("ck_webhooks_disabled_reason")
        ),
        sa.CheckConstraint("(sealed_before IS NULL) = (before_until IS NULL)", name=op.f("ck_webhooks_secret_before")),
        sa.CheckConstraint("enabled = (disabled_at IS NULL)", name=op.f("ck_webhooks_disabled_at_a_time")),
        sa.CheckConstraint("enabled = (disabled_reason IS NULL)", name=op.f("ck_webhooks_disabled_for_a_reason")),
        sa.ForeignKeyConstraint(["organisation"], ["organisations.id"], name=op.f("fk_webhooks_organisation")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    with op.batch_alter_table("webhooks", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_webhooks_organisation"), ["organisation"], unique=False)


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("webhooks", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_webhooks_organisation"))

    op.drop_table("webhooks")
    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_deliveries_untried",
            sqlite_where=sa.text("due_at IS NOT NULL AND attempts = 0"),
            postgresql_where=sa.text("due_at IS NOT NULL AND attempts = 0"),
        )
        batch_op.drop_index("ix_deliveries_listed")
        batch_op.drop_index(
            "ix_deliveries_due",
            sqlite_where=sa.text("due_at IS NOT NULL"),
            postgresql_where=sa.text("due_at IS NOT NULL"),
        )
        batch_op.drop_index("ix_deliveries_age")

    op.drop_table("deliveries")
