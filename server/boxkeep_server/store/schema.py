"""The tables. Constraints repeat what the code promises, so that a bug of ours is refused and not stored."""

from enum import StrEnum
from typing import Final

import sqlalchemy as sa

from boxkeep_server.model.agents import TaskStatus
from boxkeep_server.model.checkpoints import CheckpointState
from boxkeep_server.model.commands import Outcome
from boxkeep_server.model.companions import CompanionState
from boxkeep_server.model.handoffs import HandoffStatus
from boxkeep_server.model.statuses import STEPS, Status
from boxkeep_server.model.webhooks import DeliveryState, DisabledReason

_NAMES: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

metadata: Final = sa.MetaData(naming_convention=_NAMES)


def _id(name: str = "id", **options: object) -> "sa.Column[str]":
    return sa.Column(name, sa.String(32), **options)  # type: ignore[arg-type]


def _ms(name: str, **options: object) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger, **options)  # type: ignore[arg-type]


def _among(column: str, values: type[StrEnum]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


def steps_as_sql() -> str:
    """The lifecycle table as a condition on `previous` and `status`."""
    legal = [f"(previous = '{before}' AND status = '{after}')" for before in STEPS for after in sorted(STEPS[before])]
    return " OR ".join(["(previous IS NULL AND status = 'queued')", *legal])


PAUSE_OWED: Final = sa.text("status = 'paused' AND (stored_epoch IS NULL OR stored_epoch <> kept_epoch)")
"""Paused sandboxes whose snapshot has no whole copy in the store of blobs."""
CHECKPOINT_OWED: Final = sa.text("state = 'whole' AND stored_at IS NULL")
"""Checkpoints that have none."""

HANDOFF_OPEN: Final = sa.text("status IN ('pending', 'accepted')")
"""Handoffs that something may come of yet."""

TASK_OPEN: Final = sa.text("status IN ('queued', 'running')")
"""Tasks that have not come to their end."""

plans = sa.Table(
    "plans",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    _ms("max_duration_ms"),
    sa.Column("concurrent", sa.Integer),
    _ms("month_ms"),
    _ms("stored_bytes"),
    sa.Column("paused", sa.Integer),
    sa.Column("features", sa.Text, nullable=False),
)

organisations = sa.Table(
    "organisations",
    metadata,
    _id(primary_key=True),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("plan", sa.String(64), sa.ForeignKey("plans.name"), nullable=False),
    _ms("created_at", nullable=False),
)

keys = sa.Table(
    "keys",
    metadata,
    _id(primary_key=True),
    _id("organisation", nullable=False, index=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("hint", sa.String(8), nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    _ms("created_at", nullable=False),
    _ms("expires_at"),
    _ms("revoked_at"),
    sa.ForeignKeyConstraint(["organisation"], ["organisations.id"]),
)

sandboxes = sa.Table(
    "sandboxes",
    metadata,
    _id(primary_key=True),
    _id("organisation", nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("previous", sa.String(16)),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("released", sa.Boolean, nullable=False),
    sa.Column("runtime", sa.String(16), nullable=False),
    sa.Column("ephemeral", sa.Boolean, nullable=False),
    _ms("max_duration_ms", nullable=False),
    sa.Column("region", sa.String(3)),
    sa.Column("wished_region", sa.String(3)),
    sa.Column("wished_isolation", sa.String(8)),
    sa.Column("isolation", sa.String(8)),
    sa.Column("pause_keeps", sa.String(8)),
    sa.Column("capabilities", sa.Text),
    sa.Column("network", sa.Text, nullable=False),
    sa.Column("name", sa.String(200)),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.Column("env_names", sa.Text, nullable=False),
    _id("node"),
    _ms("created_at", nullable=False),
    _ms("queued_at", nullable=False),
    _ms("started_at"),
    _ms("ready_at"),
    _ms("expires_at"),
    _ms("node_not_after"),
    _ms("ended_at"),
    _ms("billed_ms", nullable=False),
    sa.Column("reason", sa.String(64)),
    _id("created_by", nullable=False),
    sa.Column("kept_epoch", sa.Integer),
    _ms("kept_bytes"),
    _ms("paused_at"),
    _ms("remaining_ms"),
    sa.Column("lifecycle", sa.Text),
    _id("from_checkpoint"),
    _id("origin"),
    sa.Column("stored_epoch", sa.Integer),
    sa.Column("image", sa.String(32), nullable=False, server_default=""),
    sa.Column("sides", sa.Text),
    sa.Column("kept_sides", sa.Text),
    sa.ForeignKeyConstraint(["organisation"], ["organisations.id"]),
    sa.CheckConstraint(_among("status", Status), name="status"),
    sa.CheckConstraint("status <> 'paused' OR kept_epoch IS NOT NULL", name="paused_is_kept"),
    sa.CheckConstraint(steps_as_sql(), name="step"),
    sa.CheckConstraint("(status IN ('ended', 'failed')) = (ended_at IS NOT NULL)", name="ended_at_when_over"),
    sa.CheckConstraint(
        "status <> 'ready' OR (node IS NOT NULL AND expires_at IS NOT NULL AND ready_at IS NOT NULL)",
        name="ready_has_a_body",
    ),
    sa.CheckConstraint("status NOT IN ('ended', 'failed') OR reason IS NOT NULL", name="over_has_a_reason"),
    sa.CheckConstraint("expires_at IS NULL OR status IN ('ready', 'pausing')", name="expires_while_running"),
    sa.CheckConstraint("status NOT IN ('assigning', 'ready', 'pausing') OR epoch >= 1", name="body_has_an_epoch"),
    sa.CheckConstraint("NOT released OR status IN ('ended', 'failed')", name="released_when_over"),
    sa.CheckConstraint("status <> 'ended' OR released", name="ended_is_released"),
    sa.CheckConstraint("billed_ms >= 0 AND epoch >= 0 AND revision >= 1 AND sequence >= 1", name="counts"),
    sa.CheckConstraint("max_duration_ms > 0", name="some_duration"),
    sa.Index("ix_sandboxes_listed", "organisation", "created_at", "id"),
    sa.Index("ix_sandboxes_status", "status", "queued_at"),
    sa.Index(
        "ix_sandboxes_origin",
        "origin",
        sqlite_where=sa.text("origin IS NOT NULL"),
        postgresql_where=sa.text("origin IS NOT NULL"),
    ),
    sa.Index("ix_sandboxes_owed", "paused_at", sqlite_where=PAUSE_OWED, postgresql_where=PAUSE_OWED),
    sa.Index(
        "ix_sandboxes_over",
        "ended_at",
        sqlite_where=sa.text("ended_at IS NOT NULL"),
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    ),
    sa.Index(
        "ix_sandboxes_unreleased",
        "released",
        sqlite_where=sa.text("released = 0"),
        postgresql_where=sa.text("NOT released"),
    ),
)

secrets = sa.Table(
    "sandbox_secrets",
    metadata,
    _id("sandbox", primary_key=True),
    sa.Column("sealed", sa.LargeBinary),
    sa.Column("sealed_proxy", sa.LargeBinary),
    sa.ForeignKeyConstraint(["sandbox"], ["sandboxes.id"], ondelete="CASCADE"),
)

spans = sa.Table(
    "spans",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    _id("sandbox", nullable=False),
    _id("organisation", nullable=False),
    _ms("start", nullable=False),
    _ms("end"),
    sa.CheckConstraint('"end" IS NULL OR "end" >= start', name="forward"),
    sa.Index(
        "ix_spans_open_of",
        "organisation",
        sqlite_where=sa.text('"end" IS NULL'),
        postgresql_where=sa.text('"end" IS NULL'),
    ),
    sa.Index(
        "ix_spans_ended_of",
        "organisation",
        "end",
        "start",
        "sandbox",
        sqlite_where=sa.text('"end" IS NOT NULL'),
        postgresql_where=sa.text('"end" IS NOT NULL'),
    ),
    sa.Index(
        "uq_spans_open",
        "sandbox",
        unique=True,
        sqlite_where=sa.text('"end" IS NULL'),
        postgresql_where=sa.text('"end" IS NULL'),
    ),
)
"""When sandboxes ran: written with the events that begin and end a run, never beside them."""

month_sums = sa.Table(
    "month_sums",
    metadata,
    _id("organisation", primary_key=True),
    sa.Column("month", sa.String(7), primary_key=True),
    _ms("ms", nullable=False),
    sa.CheckConstraint("ms >= 0", name="forward"),
)
"""The ended spans of an organisation, summed by UTC month when they end, so that a limit is checked by one row."""

clocks = sa.Table(
    "clocks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("boot_id", sa.String(64), nullable=False),
    _ms("ahead_ms", nullable=False),
    sa.CheckConstraint("id = 1", name="one"),
)
"""What the instance's clock is ahead of the uptime of a boot of its host: one row."""

limit_notices = sa.Table(
    "limit_notices",
    metadata,
    _id("organisation", primary_key=True),
    sa.Column("month", sa.String(7), primary_key=True),
    sa.Column("percent", sa.Integer, primary_key=True),
    _ms("at", nullable=False),
)
"""Which part of its hours an organisation was told to have used: once a month each, in the transaction that tells."""

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    _id("sandbox", nullable=False),
    _id("organisation", nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("type", sa.String(64), nullable=False),
    _ms("at", nullable=False),
    sa.Column("actor", sa.String(64), nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.UniqueConstraint("sandbox", "sequence"),
)

commands = sa.Table(
    "commands",
    metadata,
    _id(primary_key=True),
    _id("sandbox", nullable=False),
    _id("organisation", nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("line", sa.Text, nullable=False),
    sa.Column("cwd", sa.Text, nullable=False),
    sa.Column("user", sa.Text, nullable=False),
    sa.Column("background", sa.Boolean, nullable=False),
    sa.Column("pty", sa.Boolean, nullable=False),
    _ms("timeout_ms"),
    _ms("started_at", nullable=False),
    _id("started_by", nullable=False),
    _ms("ended_at"),
    sa.Column("outcome", sa.String(32)),
    sa.Column("exit_code", sa.Integer),
    sa.Column("signal", sa.Integer),
    sa.Column("reason", sa.Text),
    _ms("stdout_bytes"),
    _ms("stderr_bytes"),
    sa.Column("stdout_tail", sa.LargeBinary),
    sa.Column("stderr_tail", sa.LargeBinary),
    sa.CheckConstraint("(outcome IS NULL) = (ended_at IS NULL)", name="one_outcome"),
    sa.CheckConstraint(f"outcome IS NULL OR {_among('outcome', Outcome)}", name="outcome"),
    sa.Index("ix_commands_of", "sandbox", "started_at", "id"),
    sa.Index(
        "ix_commands_open",
        "sandbox",
        sqlite_where=sa.text("outcome IS NULL"),
        postgresql_where=sa.text("outcome IS NULL"),
    ),
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    _id("organisation", primary_key=True),
    sa.Column("route", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    _id("effect", nullable=False),
    _id("owner", nullable=False),
    _ms("created_at", nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("body", sa.LargeBinary),
    sa.Index("ix_idempotency_age", "created_at"),
)
"""An answer kept under its key. `effect` is the id that what is made gets, drawn before it is made: a repetition
after a crash makes the same thing. `owner` is the process that is at it."""

webhooks = sa.Table(
    "webhooks",
    metadata,
    _id(primary_key=True),
    _id("organisation", nullable=False, index=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("event_types", sa.Text),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("disabled_reason", sa.String(16)),
    _ms("disabled_at"),
    _ms("failing_since"),
    _ms("created_at", nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("sealed_before", sa.LargeBinary),
    _ms("before_until"),
    sa.ForeignKeyConstraint(["organisation"], ["organisations.id"]),
    sa.CheckConstraint(_among("disabled_reason", DisabledReason), name="disabled_reason"),
    sa.CheckConstraint("enabled = (disabled_reason IS NULL)", name="disabled_for_a_reason"),
    sa.CheckConstraint("enabled = (disabled_at IS NULL)", name="disabled_at_a_time"),
    sa.CheckConstraint("(sealed_before IS NULL) = (before_until IS NULL)", name="secret_before"),
)
"""Where events are sent. `sealed` is the secret that signs, `sealed_before` the one before it, until `before_until`."""

deliveries = sa.Table(
    "deliveries",
    metadata,
    _id(primary_key=True),
    _id("webhook", nullable=False),
    sa.Column("message", sa.String(80), nullable=False),
    sa.Column("type", sa.String(64), nullable=False),
    _id("sandbox"),
    sa.Column("sequence", sa.Integer),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    _ms("created_at", nullable=False),
    _ms("due_at"),
    _ms("give_up_at", nullable=False),
    _ms("attempted_at"),
    _ms("delivered_at"),
    sa.Column("status", sa.Integer),
    sa.Column("error", sa.Text),
    sa.CheckConstraint(_among("state", DeliveryState), name="state"),
    sa.CheckConstraint("(state = 'pending') = (due_at IS NOT NULL)", name="pending_is_due"),
    sa.CheckConstraint("(state = 'delivered') = (delivered_at IS NOT NULL)", name="delivered_at_a_time"),
    sa.CheckConstraint("attempts >= 0 AND tries >= 0", name="counts"),
    sa.Index("ix_deliveries_listed", "webhook", "created_at", "id"),
    sa.Index("ix_deliveries_age", "created_at"),
    sa.Index(
        "ix_deliveries_due",
        "webhook",
        "due_at",
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    ),
    sa.Index(
        "ix_deliveries_untried",
        "webhook",
        "sandbox",
        "sequence",
        sqlite_where=sa.text("due_at IS NOT NULL AND attempts = 0"),
        postgresql_where=sa.text("due_at IS NOT NULL AND attempts = 0"),
    ),
)
"""What is owed to webhooks, written with the event. Nothing refers to the webhook's row: a step of a sandbox must
never wait for, or fail with, the deletion of a webhook; what is left of one grows old and is collected."""

artifacts = sa.Table(
    "artifacts",
    metadata,
    _id(primary_key=True),
    _id("organisation", nullable=False),
    _id("sandbox", nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    _ms("size", nullable=False),
    sa.Column("content_type", sa.String(200), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    _ms("created_at", nullable=False),
    sa.ForeignKeyConstraint(["organisation"], ["organisations.id"]),
    sa.UniqueConstraint("sandbox", "key"),
    sa.CheckConstraint("size >= 0", name="size"),
    sa.Index("ix_artifacts_stored", "organisation", "size"),
    sa.Index("ix_artifacts_age", "created_at"),
)
"""Files that outlive their sandbox: no row of a sandbox is referred to. The blob's key is made of the first three ids,
so that a row names one blob and a blob that no row names is nobody's."""

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    _id(primary_key=True),
    _id("organisation", nullable=False),
    _id("sandbox", nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("name", sa.String(200)),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("memory", sa.Boolean, nullable=False),
    sa.Column("keeps", sa.String(8)),
    sa.Column("lost", sa.Text),
    sa.Column("runtime", sa.String(16), nullable=False),
    sa.Column("isolation", sa.String(8), nullable=False),
    _id("node", nullable=False),
    _ms("bytes"),
    sa.Column("stood_ms", sa.Integer),
    _ms("created_at", nullable=False),
    _ms("taken_at"),
    sa.Column("created_by", sa.String(64), nullable=False),
    sa.Column("fault", sa.String(16)),
    _ms("stored_at"),
    sa.Column("image", sa.String(32), nullable=False, server_default=""),
    sa.ForeignKeyConstraint(["organisation"], ["organisations.id"]),
    sa.CheckConstraint(_among("state", CheckpointState), name="state"),
    sa.CheckConstraint(
        "(state = 'whole') = (keeps IS NOT NULL AND bytes IS NOT NULL AND taken_at IS NOT NULL)",
        name="whole_is_there",
    ),
    sa.CheckConstraint("(state = 'failed') = (fault IS NOT NULL)", name="failed_has_a_fault"),
    sa.Index("ix_checkpoints_listed", "organisation", "created_at", "id"),
    sa.Index("ix_checkpoints_of", "sandbox"),
    sa.Index("ix_checkpoints_owed", "created_at", sqlite_where=CHECKPOINT_OWED, postgresql_where=CHECKPOINT_OWED),
    sa.Index(
        "ix_checkpoints_unsettled",
        "state",
        sqlite_where=sa.text("state <> 'whole'"),
        postgresql_where=sa.text("state <> 'whole'"),
    ),
)
"""What is kept of sandboxes beside their own lives, which it may outlive: no row of a sandbox is referred to. A row is
there before anything on a node is, and goes before it: what no row names is nobody's."""

copies = sa.Table(
    "copies",
    metadata,
    sa.Column("name", sa.String(80), primary_key=True),
    _id("organisation", nullable=False),
    _id("sandbox", nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    _id("checkpoint"),
    sa.Column("image", sa.String(64), nullable=False),
    sa.Column("guest", sa.String(64)),
    _ms("bytes"),
    _ms("begun_at", nullable=False),
    _ms("stored_at"),
    sa.ForeignKeyConstraint(["organisation"], ["organisations.id"]),
    sa.CheckConstraint("(stored_at IS NULL) = (bytes IS NULL)", name="stored_has_a_size"),
)
"""Copies of snapshots in the store of blobs. A row is there before its blob is and goes after it, so that no blob is
nobody's; whether anybody wants it, sandboxes and checkpoints say."""

companions = sa.Table(
    "companions",
    metadata,
    _id("sandbox", primary_key=True),
    sa.Column("name", sa.String(32), primary_key=True),
    _id("organisation", nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    _ms("heard_to", nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("ports", sa.Text, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    _ms("updated_at", nullable=False),
    sa.ForeignKeyConstraint(["sandbox"], ["sandboxes.id"], ondelete="CASCADE"),
    sa.CheckConstraint(_among("state", CompanionState), name="state"),
    sa.CheckConstraint("attempt >= 0 AND heard_to >= 0", name="counts"),
)
"""Programs of ours that accompany what runs in a sandbox, and what they were last heard to say."""

handoffs = sa.Table(
    "handoffs",
    metadata,
    _id(primary_key=True),
    _id("sandbox", nullable=False),
    _id("organisation", nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("reason", sa.String(32), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("requested_by", sa.String(16), nullable=False),
    sa.Column("exclusive", sa.Boolean, nullable=False),
    sa.Column("controller", sa.String(200)),
    sa.Column("resume_prompt", sa.Text),
    sa.Column("note", sa.Text),
    _ms("requested_at", nullable=False),
    _ms("accepted_at"),
    _ms("completed_at"),
    _ms("expires_at", nullable=False),
    _ms("updated_at", nullable=False),
    sa.ForeignKeyConstraint(["sandbox"], ["sandboxes.id"], ondelete="CASCADE"),
    sa.CheckConstraint(_among("status", HandoffStatus), name="status"),
    sa.CheckConstraint("status <> 'accepted' OR controller IS NOT NULL", name="accepted_by_somebody"),
    sa.CheckConstraint("(status = 'completed') = (completed_at IS NOT NULL)", name="completed_at_a_time"),
    sa.Index("ix_handoffs_of", "sandbox", "requested_at", "id"),
    sa.Index(
        "uq_handoffs_open",
        "sandbox",
        unique=True,
        sqlite_where=HANDOFF_OPEN,
        postgresql_where=HANDOFF_OPEN,
    ),
)
"""A person takes a sandbox's browser over: one at a time."""

agent_tasks = sa.Table(
    "agent_tasks",
    metadata,
    _id(primary_key=True),
    _id("sandbox", nullable=False),
    _id("organisation", nullable=False),
    sa.Column("created_by", sa.String(32), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("agent", sa.String(200)),
    sa.Column("session", sa.String(100)),
    sa.Column("metadata", sa.Text),
    _id("handoff"),
    _ms("timeout_ms"),
    _ms("created_at", nullable=False),
    _ms("started_at"),
    _ms("ended_at"),
    sa.Column("reason", sa.String(32)),
    sa.Column("message", sa.Text),
    sa.Column("result", sa.Text),
    sa.Column("ask", sa.Text),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("told", sa.Integer, nullable=False),
    _ms("told_bytes", nullable=False),
    sa.ForeignKeyConstraint(["sandbox"], ["sandboxes.id"], ondelete="CASCADE"),
    sa.CheckConstraint(_among("status", TaskStatus), name="status"),
    sa.CheckConstraint("(status IN ('completed', 'failed')) = (ended_at IS NOT NULL)", name="ended_at_a_time"),
    sa.CheckConstraint("(status = 'failed') = (reason IS NOT NULL)", name="failed_for_a_reason"),
    sa.Index("ix_agent_tasks_of", "sandbox", "created_at", "id"),
    sa.Index("ix_agent_tasks_open", "sandbox", sqlite_where=TASK_OPEN, postgresql_where=TASK_OPEN),
    sa.Index("uq_agent_tasks_handoff", "handoff", unique=True),
)
"""What agents of sandboxes have been prompted to do."""

agent_events = sa.Table(
    "agent_events",
    metadata,
    _id("task", primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
    _ms("at", nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.ForeignKeyConstraint(["task"], ["agent_tasks.id"], ondelete="CASCADE"),
)
"""What agents have told of their tasks, in order."""

public_ports = sa.Table(
    "public_ports",
    metadata,
    _id("sandbox", primary_key=True),
    sa.Column("port", sa.Integer, primary_key=True, autoincrement=False),
    _ms("created_at", nullable=False),
    _id("created_by", nullable=False),
    sa.ForeignKeyConstraint(["sandbox"], ["sandboxes.id"], ondelete="CASCADE"),
    sa.CheckConstraint("port BETWEEN 1 AND 65535", name="port"),
)
"""Ports that are reached without a token. Rows go with what their sandbox holds, and a fork begins without any."""
