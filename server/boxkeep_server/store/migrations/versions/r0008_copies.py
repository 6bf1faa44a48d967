"""Copies of snapshots in the store of blobs."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_PAUSE_OWED = sa.text("status = 'paused' AND (stored_epoch IS NULL OR stored_epoch <> kept_epoch)")
_CHECKPOINT_OWED = sa.text("state = 'whole' AND stored_at IS NULL")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "copies",
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("organisation", sa.String(length=32), nullable=False),
        sa.Column("sandbox", sa.String(length=32), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("checkpoint", sa.String(length=32), nullable=True),
        sa.Column("image", sa.String(length=64), nullable=False),
        sa.Column("guest", sa.String(length=64), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("begun_at", sa.BigInteger(), nullable=False),
        sa.Column("stored_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("(stored_at IS NULL) = (bytes IS NULL)", name=op.f("ck_copies_stored_has_a_size")),
        sa.ForeignKeyConstraint(["organisation"], ["organisations.id"], name=op.f("fk_copies_organisation")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_copies")),
    )
    op.add_column("sandboxes", sa.Column("stored_epoch", sa.Integer(), nullable=True))
    op.create_index(
        "ix_sandboxes_owed", "sandboxes", ["paused_at"], sqlite_where=_PAUSE_OWED, postgresql_where=_PAUSE_OWED
    )
    op.add_column("checkpoints", sa.Column("stored_at", sa.BigInteger(), nullable=True))
    op.create_index(
        "ix_checkpoints_owed",
        "checkpoints",
        ["created_at"],
        sqlite_where=_CHECKPOINT_OWED,
        postgresql_where=_CHECKPOINT_OWED,
    )


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_checkpoints_owed", table_name="checkpoints")
    op.drop_column("checkpoints", "stored_at")
    op.drop_index("ix_sandboxes_owed", table_name="sandboxes")
    op.drop_column("sandboxes", "stored_epoch")
    op.drop_table("copies")
