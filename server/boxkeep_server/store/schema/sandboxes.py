"""Sandboxes and where they are in their lives, what is sealed of them, and their ports that are open."""

from typing import Final

import sqlalchemy as sa

from boxkeep_server.model.statuses import STEPS, Status
from boxkeep_server.store.schema.columns import among, big, identifier, metadata, partial_index


def steps_as_sql() -> str:
    """The lifecycle table as a condition on `previous` and `status`."""
    legal = [f"(previous = '{before}' AND status = '{after}')" for before in STEPS for after in sorted(STEPS[before])]
    return " OR ".join(["(previous IS NULL AND status = 'queued')", *legal])


PAUSE_OWED: Final = sa.text("status = 'paused' AND (stored_epoch IS NULL OR stored_epoch <> kept_epoch)")
"""Paused sandboxes whose snapshot has no whole copy in the store of blobs."""

sandboxes = sa.Table(
    "sandboxes",
    metadata,
    identifier(primary_key=True),
    identifier("organisation", nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("previous", sa.String(16)),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("released", sa.Boolean, nullable=False),
    sa.Column("runtime", sa.String(16), nullable=False),
    sa.Column("ephemeral", sa.Boolean, nullable=False),
    big("max_duration_ms", nullable=False),
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
    identifier("node"),
    big("created_at", nullable=False),
    big("queued_at", nullable=False),
    big("started_at"),
    big("ready_at"),
    big("expires_at"),
    big("node_not_after"),
    big("ended_at"),
    big("billed_ms", nullable=False),
    sa.Column("reason", sa.String(64)),
    identifier("created_by", nullable=False),
    sa.Column("kept_epoch", sa.Integer),
    big("kept_bytes"),
    big("paused_at"),
    big("remaining_ms"),
    sa.Column("lifecycle", sa.Text),
    identifier("from_checkpoint"),
    identifier("origin"),
    sa.Column("stored_epoch", sa.Integer),
    sa.Column("image", sa.String(32), nullable=False, server_default=""),
    sa.Column("sides", sa.Text),
    sa.Column("kept_sides", sa.Text),
    sa.Column("disk_limit", sa.Boolean),
    sa.Column("files_only", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.ForeignKeyConstraint(["organisation"], ["organisations.id"]),
    sa.CheckConstraint(among("status", Status), name="status"),
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
    partial_index("ix_sandboxes_origin", "origin", where=sa.text("origin IS NOT NULL")),
    partial_index("ix_sandboxes_owed", "paused_at", where=PAUSE_OWED),
    partial_index("ix_sandboxes_over", "ended_at", where=sa.text("ended_at IS NOT NULL")),
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
    identifier("sandbox", primary_key=True),
    sa.Column("sealed", sa.LargeBinary),
    sa.Column("sealed_proxy", sa.LargeBinary),
    sa.ForeignKeyConstraint(["sandbox"], ["sandboxes.id"], ondelete="CASCADE"),
)

public_ports = sa.Table(
    "public_ports",
    metadata,
    identifier("sandbox", primary_key=True),
    sa.Column("port", sa.Integer, primary_key=True, autoincrement=False),
    big("created_at", nullable=False),
    identifier("created_by", nullable=False),
    sa.ForeignKeyConstraint(["sandbox"], ["sandboxes.id"], ondelete="CASCADE"),
    sa.CheckConstraint("port BETWEEN 1 AND 65535", name="port"),
)
"""Ports that are reached without a token. Rows go with what their sandbox holds, and a fork begins without any."""
