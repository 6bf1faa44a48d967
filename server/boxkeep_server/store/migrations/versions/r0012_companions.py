"""Programs that accompany what runs in a sandbox."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0008"
branch_labels = None
depends_on = None


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
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("attempt >= 0 AND heard_to >= 0", name=op.f("ck_companions_counts")),
        sa.CheckConstraint("state IN ('starting', 'ready', 'failed')", name=op.f("ck_companions_state")),
        sa.ForeignKeyConstraint(["sandbox"], ["sandboxes.id"], name=op.f("fk_companions_sandbox"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sandbox", "name", name=op.f("pk_companions")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("companions")
