"""Programs that accompany what runs in a sandbox, and persons who take over."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_HANDOFF_OPEN = sa.text("status IN ('pending', 'accepted')")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "companions",
        sa.Column("sandbox", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("organisation", sa.String(length=32), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("heard_to", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("ports", sa.Text(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("attempt >= 0 AND heard_to >= 0", name=op.f("ck_companions_counts")),
        sa.CheckConstraint("state IN ('starting', 'ready', 'failed')", name=op.f("ck_companions_state")),
        sa.ForeignKeyConstraint(["sandbox"], ["sandboxes.id"], name=op.f("fk_companions_sandbox"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sandbox", "name", name=op.f("pk_companions")),
    )
    op.create_table(
        "handoffs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("sandbox", sa.String(length=32), nullable=False),
        sa.Column("organisation", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("requested_by", sa.String(length=16), nullable=False),
        sa.Column("exclusive", sa.Boolean(), nullable=False),
        sa.Column("controller", sa.String(length=200), nullable=True),
        sa.Column("resume_prompt", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("accepted_at", sa.BigInteger(), nullable=True),
        sa.Column("completed_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "status IN ('pending', 'accepted', 'completed', 'cancelled', 'expired')", name=op.f("ck_handoffs_status")
        ),
        sa.CheckConstraint(
            "status <> 'accepted' OR controller IS NOT NULL", name=op.f("ck_handoffs_accepted_by_somebody")
        ),
        sa.CheckConstraint(
            "(status = 'completed') = (completed_at IS NOT NULL)", name=op.f("ck_handoffs_completed_at_a_time")
        ),
        sa.ForeignKeyConstraint(["sandbox"], ["sandboxes.id"], name=op.f("fk_handoffs_sandbox"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_handoffs")),
    )
    op.create_index("ix_handoffs_of", "handoffs", ["sandbox", "requested_at", "id"])
    op.create_index(
        "uq_handoffs_open",
        "handoffs",
        ["sandbox"],
        unique=True,
        sqlite_where=_HANDOFF_OPEN,
        postgresql_where=_HANDOFF_OPEN,
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("handoffs")
    op.drop_table("companions")
