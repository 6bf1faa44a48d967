"""What outlives a sandbox, or a node: artifacts, checkpoints, and copies of snapshots."""

from typing import Final

import sqlalchemy as sa

from boxkeep_server.model.checkpoints import CheckpointState
from boxkeep_server.store.schema.columns import among, big, identifier, metadata, partial_index

CHECKPOINT_OWED: Final = sa.text("state = 'whole' AND stored_at IS NULL")
"""Checkpoints that have none."""

artifacts = sa.Table(
    "artifacts",
    metadata,
    identifier(primary_key=True),
    identifier("organisation", nullable=False),
    identifier("sandbox", nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    big("size", nullable=False),
    sa.Column("content_type", sa.String(200), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    big("created_at", nullable=False),
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
    identifier(primary_key=True),
    identifier("organisation", nullable=False),
    identifier("sandbox", nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("name", sa.String(200)),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("memory", sa.Boolean, nullable=False),
    sa.Column("keeps", sa.String(8)),
    sa.Column("lost", sa.Text),
    sa.Column("runtime", sa.String(16), nullable=False),
    sa.Column("isolation", sa.String(8), nullable=False),
    identifier("node", nullable=False),
    big("bytes"),
    sa.Column("stood_ms", sa.Integer),
    big("created_at", nullable=False),
    big("taken_at"),
    sa.Column("created_by", sa.String(64), nullable=False),
    sa.Column("fault", sa.String(16)),
    big("stored_at"),
    sa.Column("image", sa.String(32), nullable=False, server_default=""),
    sa.Column("sides", sa.Text),
    sa.ForeignKeyConstraint(["organisation"], ["organisations.id"]),
    sa.CheckConstraint(among("state", CheckpointState), name="state"),
    sa.CheckConstraint(
        "(state = 'whole') = (keeps IS NOT NULL AND bytes IS NOT NULL AND taken_at IS NOT NULL)",
        name="whole_is_there",
    ),
    sa.CheckConstraint("(state = 'failed') = (fault IS NOT NULL)", name="failed_has_a_fault"),
    sa.Index("ix_checkpoints_listed", "organisation", "created_at", "id"),
    sa.Index("ix_checkpoints_of", "sandbox"),
    partial_index("ix_checkpoints_owed", "created_at", where=CHECKPOINT_OWED),
    partial_index("ix_checkpoints_unsettled", "state", where=sa.text("state <> 'whole'")),
)
"""What is kept of sandboxes beside their own lives, which it may outlive: no row of a sandbox is referred to. A row is
there before anything on a node is, and goes before it: what no row names is nobody's."""

copies = sa.Table(
    "copies",
    metadata,
    sa.Column("name", sa.String(80), primary_key=True),
    identifier("organisation", nullable=False),
    identifier("sandbox", nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    identifier("checkpoint"),
    sa.Column("image", sa.String(64), nullable=False),
    sa.Column("guest", sa.String(64)),
    big("bytes"),
    big("begun_at", nullable=False),
    big("stored_at"),
    sa.ForeignKeyConstraint(["organisation"], ["organisations.id"]),
    sa.CheckConstraint("(stored_at IS NULL) = (bytes IS NULL)", name="stored_has_a_size"),
)
"""Copies of snapshots in the store of blobs, by the names of these; `epoch` is the main machine's, of all of a pause. A
row is there before its blob is and goes after it, so that no blob is nobody's; whether anybody wants it, sandboxes and
checkpoints say."""
