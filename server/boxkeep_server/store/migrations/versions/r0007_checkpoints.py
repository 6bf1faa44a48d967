"""Checkpoints, and the sandboxes that go on from them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("organisation", sa.String(length=32), nullable=False),
        sa.Column("sandbox", sa.String(length=32), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("memory", sa.Boolean(), nullable=False),
        sa.Column("keeps", sa.String(length=8), nullable=True),
        sa.Column("lost", sa.Text(), nullable=True),
        sa.Column("runtime", sa.String(length=16), nullable=False),
        sa.Column("isolation", sa.String(length=8), nullable=False),
        sa.Column("node", sa.String(length=32), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("stood_ms", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("taken_at", sa.BigInteger(), nullable=True),
        sa.Column("created_by", sa.String(length=64), nullable=False),
        sa.Column("fault", sa.String(length=16), nullable=True),
        sa.CheckConstraint("state IN ('taking', 'whole', 'failed')", name=op.f("ck_checkpoints_state")),
        sa.CheckConstraint(
            "(state = 'whole') = (keeps IS NOT NULL AND bytes IS NOT NULL AND taken_at IS NOT NULL)",
            name=op.f("ck_checkpoints_whole_is_there"),
        ),
        sa.CheckConstraint("(state = 'failed') = (fault IS NOT NULL)", name=op.f("ck_checkpoints_failed_has_a_fault")),
        sa.ForeignKeyConstraint(["organisation"], ["organisations.id"], name=op.f("fk_checkpoints_organisation")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoints")),
    )
    with op.batch_alter_table("checkpoints", schema=None) as batch_op:
        batch_op.create_index("ix_checkpoints_listed", ["organisation", "created_at", "id"], unique=False)
        batch_op.create_index("ix_checkpoints_of", ["sandbox"], unique=False)
        batch_op.create_index(
            "ix_checkpoints_unsettled",
            ["state"],
            unique=False,
            sqlite_where=sa.text("state <> 'whole'"),
            postgresql_where=sa.text("state <> 'whole'"),
        )
    op.add_column("sandboxes", sa.Column("from_checkpoint", sa.String(length=32), nullable=True))
    op.add_column("sandboxes", sa.Column("origin", sa.String(length=32), nullable=True))
    op.create_index(
        "ix_sandboxes_origin",
        "sandboxes",
        ["origin"],
        sqlite_where=sa.text("origin IS NOT NULL"),
        postgresql_where=sa.text("origin IS NOT NULL"),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_sandboxes_origin", table_name="sandboxes")
    op.drop_column("sandboxes", "origin")
    op.drop_column("sandboxes", "from_checkpoint")
    op.drop_table("checkpoints")
