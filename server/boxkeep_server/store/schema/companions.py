"""Programs of ours in sandboxes, persons who take over, and what agents are to do."""

from typing import Final

import sqlalchemy as sa

from boxkeep_server.model.agents import TaskStatus
from boxkeep_server.model.companions import CompanionState
from boxkeep_server.model.handoffs import HandoffStatus
from boxkeep_server.store.schema.columns import among, big, identifier, metadata, partial_index

HANDOFF_OPEN: Final = sa.text("status IN ('pending', 'accepted')")
"""Handoffs that something may come of yet."""

TASK_OPEN: Final = sa.text("status IN ('queued', 'running')")
"""Tasks that have not come to their end."""

companions = sa.Table(
    "companions",
    metadata,
    identifier("sandbox", primary_key=True),
    sa.Column("name", sa.String(32), primary_key=True),
    identifier("organisation", nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    big("heard_to", nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("ports", sa.Text, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    big("updated_at", nullable=False),
    sa.ForeignKeyConstraint(["sandbox"], ["sandboxes.id"], ondelete="CASCADE"),
    sa.CheckConstraint(among("state", CompanionState), name="state"),
    sa.CheckConstraint("attempt >= 0 AND heard_to >= 0", name="counts"),
)
"""Programs of ours that accompany what runs in a sandbox, and what they were last heard to say."""

handoffs = sa.Table(
    "handoffs",
    metadata,
    identifier(primary_key=True),
    identifier("sandbox", nullable=False),
    identifier("organisation", nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("reason", sa.String(32), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("requested_by", sa.String(16), nullable=False),
    sa.Column("exclusive", sa.Boolean, nullable=False),
    sa.Column("controller", sa.String(200)),
    sa.Column("resume_prompt", sa.Text),
    sa.Column("note", sa.Text),
    big("requested_at", nullable=False),
    big("accepted_at"),
    big("completed_at"),
    big("expires_at", nullable=False),
    big("updated_at", nullable=False),
    sa.ForeignKeyConstraint(["sandbox"], ["sandboxes.id"], ondelete="CASCADE"),
    sa.CheckConstraint(among("status", HandoffStatus), name="status"),
    sa.CheckConstraint("status <> 'accepted' OR controller IS NOT NULL", name="accepted_by_somebody"),
    sa.CheckConstraint("(status = 'completed') = (completed_at IS NOT NULL)", name="completed_at_a_time"),
    sa.Index("ix_handoffs_of", "sandbox", "requested_at", "id"),
    partial_index("uq_handoffs_open", "sandbox", where=HANDOFF_OPEN, unique=True),
)
"""A person takes a sandbox's browser over: one at a time."""

agent_tasks = sa.Table(
    "agent_tasks",
    metadata,
    identifier(primary_key=True),
    identifier("sandbox", nullable=False),
    identifier("organisation", nullable=False),
    sa.Column("created_by", sa.String(32), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("agent", sa.String(200)),
    sa.Column("session", sa.String(100)),
    sa.Column("metadata", sa.Text),
    identifier("handoff"),
    big("timeout_ms"),
    big("created_at", nullable=False),
    big("started_at"),
    big("ended_at"),
    sa.Column("reason", sa.String(32)),
    sa.Column("message", sa.Text),
    sa.Column("result", sa.Text),
    sa.Column("ask", sa.Text),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("told", sa.Integer, nullable=False),
    big("told_bytes", nullable=False),
    sa.ForeignKeyConstraint(["sandbox"], ["sandboxes.id"], ondelete="CASCADE"),
    sa.CheckConstraint(among("status", TaskStatus), name="status"),
    sa.CheckConstraint("(status IN ('completed', 'failed')) = (ended_at IS NOT NULL)", name="ended_at_a_time"),
    sa.CheckConstraint("(status = 'failed') = (reason IS NOT NULL)", name="failed_for_a_reason"),
    sa.Index("ix_agent_tasks_of", "sandbox", "created_at", "id"),
    partial_index("ix_agent_tasks_open", "sandbox", where=TASK_OPEN),
    sa.Index("uq_agent_tasks_handoff", "handoff", unique=True),
)
"""What agents of sandboxes have been prompted to do."""

agent_events = sa.Table(
    "agent_events",
    metadata,
    identifier("task", primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
    big("at", nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.ForeignKeyConstraint(["task"], ["agent_tasks.id"], ondelete="CASCADE"),
)
"""What agents have told of their tasks, in order."""
