"""The machines beside the main one that a checkpoint has something of."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("checkpoints", sa.Column("sides", sa.Text(), nullable=True))


def downgrade() -> None:
    """Undo."""
    op.drop_column("checkpoints", "sides")
