"""The first tables."""

# ruff: noqa: E501

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "commands",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("sandbox", sa.String(length=32), nullable=False),
        sa.Column("organisation", sa.String(length=32), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
        sa.Column("cwd", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("background", sa.Boolean(), nullable=False),
        sa.Column("pty", sa.Boolean(), nullable=False),
        sa.Column("timeout_ms", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("started_by", sa.String(length=32), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.String(length=32), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("signal", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("stdout_bytes", sa.BigInteger(), nullable=True),
        sa.Column("stderr_bytes", sa.BigInteger(), nullable=True),
        sa.Column("stdout_tail", sa.LargeBinary(), nullable=True),
        sa.Column("stderr_tail", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint(
            "outcome IS NULL OR outcome IN ('exited', 'signalled', 'timed_out', 'cancelled', 'out_of_memory', 'sandbox_ended', 'lost_on_files_pause', 'rolled_back')",
            name=op.f("ck_commands_outcome"),
        ),
        sa.CheckConstraint("(outcome IS NULL) = (ended_at IS NULL)", name=op.f("ck_commands_one_outcome")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commands")),
    )
    with op.batch_alter_table("commands", schema=None) as batch_op:
        batch_op.create_index("ix_commands_of", ["sandbox", "started_at", "id"], unique=False)
        batch_op.create_index(
            "ix_commands_open",
            ["sandbox"],
            unique=False,
            sqlite_where=sa.text("outcome IS NULL"),
            postgresql_where=sa.text("outcome IS NULL"),
        )

    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("sandbox", sa.String(length=32), nullable=False),
        sa.Column("organisation", sa.String(length=32), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sa.UniqueConstraint("sandbox", "sequence", name=op.f("uq_events_sandbox_sequence")),
    )
    op.create_table(
        "idempotency",
        sa.Column("organisation", sa.String(length=32), nullable=False),
        sa.Column("route", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("effect", sa.String(length=32), nullable=False),
        sa.Column("owner", sa.String(length=32), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("organisation", "route", "key", name=op.f("pk_idempotency")),
    )
    with op.batch_alter_table("idempotency", schema=None) as batch_op:
        batch_op.create_index("ix_idempotency_age", ["created_at"], unique=False)

    op.create_table(
        "month_sums",
        sa.Column("organisation", sa.String(length=32), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=False),
        sa.Column("ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("ms >= 0", name=op.f("ck_month_sums_forward")),
        sa.PrimaryKeyConstraint("organisation", "month", name=op.f("pk_month_sums")),
    )
    op.create_table(
        "plans",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("max_duration_ms", sa.BigInteger(), nullable=True),
        sa.Column("concurrent", sa.Integer(), nullable=True),
        sa.Column("month_ms", sa.BigInteger(), nullable=True),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=True),
        sa.Column("paused", sa.Integer(), nullable=True),
        sa.Column("features", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_plans")),
    )
    op.create_table(
        "spans",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("sandbox", sa.String(length=32), nullable=False),
        sa.Column("organisation", sa.String(length=32), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("end", sa.BigInteger(), nullable=True),
        sa.CheckConstraint('"end" IS NULL OR "end" >= start', name=op.f("ck_spans_forward")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spans")),
    )
    with op.batch_alter_table("spans", schema=None) as batch_op:
        batch_op.create_index(
            "ix_spans_open_of",
            ["organisation"],
            unique=False,
            sqlite_where=sa.text('"end" IS NULL'),
            postgresql_where=sa.text('"end" IS NULL'),
        )
        batch_op.create_index(
            "uq_spans_open",
            ["sandbox"],
            unique=True,
            sqlite_where=sa.text('"end" IS NULL'),
            postgresql_where=sa.text('"end" IS NULL'),
        )

    op.create_table(
        "organisations",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("plan", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["plan"], ["plans.name"], name=op.f("fk_organisations_plan")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_organisations")),
        sa.UniqueConstraint("name", name=op.f("uq_organisations_name")),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("organisation", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("hint", sa.String(length=8), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["organisation"], ["organisations.id"], name=op.f("fk_keys_organisation")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_keys_digest")),
    )
    with op.batch_alter_table("keys", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_keys_organisation"), ["organisation"], unique=False)

    op.create_table(
        "sandboxes",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("organisation", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("previous", sa.String(length=16), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("released", sa.Boolean(), nullable=False),
        sa.Column("runtime", sa.String(length=16), nullable=False),
        sa.Column("ephemeral", sa.Boolean(), nullable=False),
        sa.Column("max_duration_ms", sa.BigInteger(), nullable=False),
        sa.Column("region", sa.String(length=3), nullable=True),
        sa.Column("wished_region", sa.String(length=3), nullable=True),
        sa.Column("wished_isolation", sa.String(length=8), nullable=True),
        sa.Column("isolation", sa.String(length=8), nullable=True),
        sa.Column("pause_keeps", sa.String(length=8), nullable=True),
        sa.Column("capabilities", sa.Text(), nullable=True),
        sa.Column("network", sa.Text(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("env_names", sa.Text(), nullable=False),
        sa.Column("node", sa.String(length=32), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("queued_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("ready_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("node_not_after", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("billed_ms", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("created_by", sa.String(length=32), nullable=False),
        sa.CheckConstraint(
            "(previous IS NULL AND status = 'queued') OR (previous = 'queued' AND status = 'assigning') OR (previous = 'queued' AND status = 'ending') OR (previous = 'queued' AND status = 'failed') OR (previous = 'queued' AND status = 'paused') OR (previous = 'assigning' AND status = 'ending') OR (previous = 'assigning' AND status = 'failed') OR (previous = 'assigning' AND status = 'paused') OR (previous = 'assigning' AND status = 'queued') OR (previous = 'assigning' AND status = 'ready') OR (previous = 'ready' AND status = 'ending') OR (previous = 'ready' AND status = 'failed') OR (previous = 'ready' AND status = 'pausing') OR (previous = 'pausing' AND status = 'ending') OR (previous = 'pausing' AND status = 'failed') OR (previous = 'pausing' AND status = 'paused') OR (previous = 'pausing' AND status = 'ready') OR (previous = 'paused' AND status = 'ending') OR (previous = 'paused' AND status = 'failed') OR (previous = 'paused' AND status = 'queued') OR (previous = 'ending' AND status = 'ended')",
            name=op.f("ck_sandboxes_step"),
        ),
        sa.CheckConstraint(
            "(status IN ('ended', 'failed')) = (ended_at IS NOT NULL)", name=op.f("ck_sandboxes_ended_at_when_over")
        ),
        sa.CheckConstraint(
            "NOT released OR status IN ('ended', 'failed')", name=op.f("ck_sandboxes_released_when_over")
        ),
        sa.CheckConstraint(
            "expires_at IS NULL OR status IN ('ready', 'pausing')", name=op.f("ck_sandboxes_expires_while_running")
        ),
        sa.CheckConstraint("status <> 'ended' OR released", name=op.f("ck_sandboxes_ended_is_released")),
        sa.CheckConstraint(
            "status <> 'ready' OR (node IS NOT NULL AND expires_at IS NOT NULL AND ready_at IS NOT NULL)",
            name=op.f("ck_sandboxes_ready_has_a_body"),
        ),
        sa.CheckConstraint(
            "status IN ('queued', 'assigning', 'ready', 'pausing', 'paused', 'ending', 'ended', 'failed')",
            name=op.f("ck_sandboxes_status"),
        ),
        sa.CheckConstraint(
            "status NOT IN ('assigning', 'ready', 'pausing') OR epoch >= 1", name=op.f("ck_sandboxes_body_has_an_epoch")
        ),
        sa.CheckConstraint(
            "status NOT IN ('ended', 'failed') OR reason IS NOT NULL", name=op.f("ck_sandboxes_over_has_a_reason")
        ),
        sa.CheckConstraint(
            "billed_ms >= 0 AND epoch >= 0 AND revision >= 1 AND sequence >= 1", name=op.f("ck_sandboxes_counts")
        ),
        sa.CheckConstraint("max_duration_ms > 0", name=op.f("ck_sandboxes_some_duration")),
        sa.ForeignKeyConstraint(["organisation"], ["organisations.id"], name=op.f("fk_sandboxes_organisation")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sandboxes")),
    )
    with op.batch_alter_table("sandboxes", schema=None) as batch_op:
        batch_op.create_index("ix_sandboxes_listed", ["organisation", "created_at", "id"], unique=False)
        batch_op.create_index(
            "ix_sandboxes_over",
            ["ended_at"],
            unique=False,
            sqlite_where=sa.text("ended_at IS NOT NULL"),
            postgresql_where=sa.text("ended_at IS NOT NULL"),
        )
        batch_op.create_index("ix_sandboxes_status", ["status", "queued_at"], unique=False)
        batch_op.create_index(
            "ix_sandboxes_unreleased",
            ["released"],
            unique=False,
            sqlite_where=sa.text("released = 0"),
            postgresql_where=sa.text("NOT released"),
        )

    op.create_table(
        "sandbox_secrets",
        sa.Column("sandbox", sa.String(length=32), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["sandbox"], ["sandboxes.id"], name=op.f("fk_sandbox_secrets_sandbox"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sandbox", name=op.f("pk_sandbox_secrets")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("sandbox_secrets")
    with op.batch_alter_table("sandboxes", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_sandboxes_unreleased", sqlite_where=sa.text("released = 0"), postgresql_where=sa.text("NOT released")
        )
        batch_op.drop_index("ix_sandboxes_status")
        batch_op.drop_index(
            "ix_sandboxes_over",
            sqlite_where=sa.text("ended_at IS NOT NULL"),
            postgresql_where=sa.text("ended_at IS NOT NULL"),
        )
        batch_op.drop_index("ix_sandboxes_listed")

    op.drop_table("sandboxes")
    with op.batch_alter_table("keys", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_keys_organisation"))

    op.drop_table("keys")
    op.drop_table("organisations")
    with op.batch_alter_table("spans", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_spans_open", sqlite_where=sa.text('"end" IS NULL'), postgresql_where=sa.text('"end" IS NULL')
        )
        batch_op.drop_index(
            "ix_spans_open_of", sqlite_where=sa.text('"end" IS NULL'), postgresql_where=sa.text('"end" IS NULL')
        )

    op.drop_table("spans")
    op.drop_table("plans")
    op.drop_table("month_sums")
    with op.batch_alter_table("idempotency", schema=None) as batch_op:
        batch_op.drop_index("ix_idempotency_age")

    op.drop_table("idempotency")
    op.drop_table("events")
    with op.batch_alter_table("commands", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_commands_open", sqlite_where=sa.text("outcome IS NULL"), postgresql_where=sa.text("outcome IS NULL")
        )
        batch_op.drop_index("ix_commands_of")

    op.drop_table("commands")
