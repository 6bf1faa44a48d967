"""The machines that a sandbox has beside its main one, and what is kept of them."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("sandboxes", sa.Column("sides", sa.Text(), nullable=True))
    op.add_column("sandboxes", sa.Column("kept_sides", sa.Text(), nullable=True))


def downgrade() -> None:
    """Undo."""
    op.drop_column("sandboxes", "kept_sides")
    op.drop_column("sandboxes", "sides")
