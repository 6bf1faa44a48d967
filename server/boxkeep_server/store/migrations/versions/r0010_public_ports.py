"""Ports of sandboxes that are open to everybody."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "public_ports",
        sa.Column("sandbox", sa.String(length=32), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(length=32), nullable=False),
        sa.CheckConstraint("port BETWEEN 1 AND 65535", name=op.f("ck_public_ports_port")),
        sa.ForeignKeyConstraint(
            ["sandbox"], ["sandboxes.id"], name=op.f("fk_public_ports_sandbox"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sandbox", "port", name=op.f("pk_public_ports")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("public_ports")
