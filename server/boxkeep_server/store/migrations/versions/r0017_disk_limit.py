"""Whether a sandbox's disk stops at its ceiling, on the node that it has or had last."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("sandboxes", sa.Column("disk_limit", sa.Boolean(), nullable=True))


def downgrade() -> None:
    """Undo."""
    op.drop_column("sandboxes", "disk_limit")
