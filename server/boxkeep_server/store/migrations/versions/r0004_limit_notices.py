"""Which limits organisations have been told of."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "limit_notices",
        sa.Column("organisation", sa.String(length=32), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("percent", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("organisation", "month", "percent", name=op.f("pk_limit_notices")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("limit_notices")
