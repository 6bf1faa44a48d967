"""The image that the bodies of a sandbox begin from, and that a checkpoint is of."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    for table in ("sandboxes", "checkpoints"):
        op.add_column(table, sa.Column("image", sa.String(length=32), nullable=False, server_default=""))
        rows = sa.table(table, sa.column("image"), sa.column("runtime"))
        op.execute(sa.update(rows).values(image=rows.c.runtime))


def downgrade() -> None:
    """Undo."""
    for table in ("sandboxes", "checkpoints"):
        op.drop_column(table, "image")
