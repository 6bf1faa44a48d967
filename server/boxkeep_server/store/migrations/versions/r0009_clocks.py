"""What the clock is ahead of the host's uptime."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "clocks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("boot_id", sa.String(length=64), nullable=False),
        sa.Column("ahead_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_clocks_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_clocks")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("clocks")
