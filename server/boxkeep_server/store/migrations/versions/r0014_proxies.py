"""The URL of a proxy that demands a password, sealed beside the environment of its sandbox."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    with op.batch_alter_table("sandbox_secrets") as table:
        table.alter_column("sealed", existing_type=sa.LargeBinary(), nullable=True)
        table.add_column(sa.Column("sealed_proxy", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Undo."""
    op.execute("DELETE FROM sandbox_secrets WHERE sealed IS NULL")
    with op.batch_alter_table("sandbox_secrets") as table:
        table.drop_column("sealed_proxy")
        table.alter_column("sealed", existing_type=sa.LargeBinary(), nullable=False)
