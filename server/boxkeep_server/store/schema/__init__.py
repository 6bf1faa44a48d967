"""The tables. Constraints repeat what the code promises, so that a bug of ours is refused and not stored."""

from boxkeep_server.store.schema.accounts import keys, limit_notices, organisations, plans
from boxkeep_server.store.schema.calls import commands, events, idempotency
from boxkeep_server.store.schema.columns import metadata
from boxkeep_server.store.schema.companions import (
    HANDOFF_OPEN,
    TASK_OPEN,
    agent_events,
    agent_tasks,
    companions,
    handoffs,
)
from boxkeep_server.store.schema.kept import CHECKPOINT_OWED, artifacts, checkpoints, copies
from boxkeep_server.store.schema.sandboxes import PAUSE_OWED, public_ports, sandboxes, secrets, steps_as_sql
from boxkeep_server.store.schema.time import clocks, month_sums, spans
from boxkeep_server.store.schema.webhooks import deliveries, webhooks

__all__ = [
    "CHECKPOINT_OWED",
    "HANDOFF_OPEN",
    "PAUSE_OWED",
    "TASK_OPEN",
    "agent_events",
    "agent_tasks",
    "artifacts",
    "checkpoints",
    "clocks",
    "commands",
    "companions",
    "copies",
    "deliveries",
    "events",
    "handoffs",
    "idempotency",
    "keys",
    "limit_notices",
    "metadata",
    "month_sums",
    "organisations",
    "plans",
    "public_ports",
    "sandboxes",
    "secrets",
    "spans",
    "steps_as_sql",
    "webhooks",
]
