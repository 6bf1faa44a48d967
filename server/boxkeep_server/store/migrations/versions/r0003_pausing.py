"""What is kept of a paused sandbox, and when it is to be paused and resumed by itself."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    # With its constraint in one statement, which SQLite takes without making the table anew.
    op.execute(
        "ALTER TABLE sandboxes ADD COLUMN kept_epoch INTEGER "
        "CONSTRAINT ck_sandboxes_paused_is_kept CHECK (status <> 'paused' OR kept_epoch IS NOT NULL)"
    )
    op.add_column("sandboxes", sa.Column("kept_bytes", sa.BigInteger(), nullable=True))
    op.add_column("sandboxes", sa.Column("paused_at", sa.BigInteger(), nullable=True))
    op.add_column("sandboxes", sa.Column("remaining_ms", sa.BigInteger(), nullable=True))
    op.add_column("sandboxes", sa.Column("lifecycle", sa.Text(), nullable=True))


def downgrade() -> None:
    """Undo."""
    for name in ("lifecycle", "remaining_ms", "paused_at", "kept_bytes", "kept_epoch"):
        op.drop_column("sandboxes", name)
