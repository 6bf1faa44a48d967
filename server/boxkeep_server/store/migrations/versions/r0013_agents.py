"""What agents of sandboxes are prompted to do, and what they tell of it."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_OPEN = sa.text("status IN ('queued', 'running')")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "agent_tasks",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("sandbox", sa.String(length=32), nullable=False),
        sa.Column("organisation", sa.String(length=32), nullable=False),
        sa.Column("created_by", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("agent", sa.String(length=200), nullable=True),
        sa.Column("session", sa.String(length=100), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=True),
        sa.Column("handoff", sa.String(length=32), nullable=True),
        sa.Column("timeout_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.String(length=32), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("ask", sa.Text(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("told", sa.Integer(), nullable=False),
        sa.Column("told_bytes", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'completed', 'failed')", name=op.f("ck_agent_tasks_status")
        ),
        sa.CheckConstraint(
            "(status IN ('completed', 'failed')) = (ended_at IS NOT NULL)", name=op.f("ck_agent_tasks_ended_at_a_time")
        ),
        sa.CheckConstraint(
            "(status = 'failed') = (reason IS NOT NULL)", name=op.f("ck_agent_tasks_failed_for_a_reason")
        ),
        sa.ForeignKeyConstraint(["sandbox"], ["sandboxes.id"], name=op.f("fk_agent_tasks_sandbox"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agent_tasks")),
    )
    op.create_index("ix_agent_tasks_of", "agent_tasks", ["sandbox", "created_at", "id"])
    op.create_index("ix_agent_tasks_open", "agent_tasks", ["sandbox"], sqlite_where=_OPEN, postgresql_where=_OPEN)
    op.create_index("uq_agent_tasks_handoff", "agent_tasks", ["handoff"], unique=True)
    op.create_table(
        "agent_events",
        sa.Column("task", sa.String(length=32), nullable=False),
        sa.Column("n", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["task"], ["agent_tasks.id"], name=op.f("fk_agent_events_task"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("task", "n", name=op.f("pk_agent_events")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("agent_events")
    op.drop_table("agent_tasks")
