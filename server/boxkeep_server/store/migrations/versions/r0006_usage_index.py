"""An index for usage: the ended spans of an organisation, by their ends."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    with op.batch_alter_table("spans", schema=None) as batch_op:
        batch_op.create_index(
            "ix_spans_ended_of",
            ["organisation", "end", "start", "sandbox"],
            unique=False,
            sqlite_where=sa.text('"end" IS NOT NULL'),
            postgresql_where=sa.text('"end" IS NOT NULL'),
        )


def downgrade() -> None:
    """Undo."""
    with op.batch_alter_table("spans", schema=None) as batch_op:
        batch_op.drop_index("ix_spans_ended_of")
