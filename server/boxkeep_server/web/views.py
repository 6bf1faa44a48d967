"""How records look to a client: plain JSON values, built by hand because reads are hot."""

from collections.abc import Mapping

import orjson
from starlette.responses import Response

from boxkeep_server.model.agents import Agent, Task, TaskEvent
from boxkeep_server.model.artifacts import Artifact, Kept
from boxkeep_server.model.browsers import Browser
from boxkeep_server.model.checkpoints import Checkpoint
from boxkeep_server.model.commands import Command
from boxkeep_server.model.events import Event
from boxkeep_server.model.handoffs import Handoff
from boxkeep_server.model.sandboxes import SIZE, Sandbox
from boxkeep_server.model.statuses import ACTIVE, OVER, Status
from boxkeep_server.model.webhooks import ALL, Delivery, Webhook


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(orjson.dumps(value), status, headers, "application/json")


def status_shown(sandbox: Sandbox, active: bool) -> str:
    """`active` where a ready sandbox is busy, else its status."""
    return ACTIVE if active and sandbox.status is Status.READY else sandbox.status.value


def listed(sandbox: Sandbox, active: bool) -> dict[str, object]:
    """A sandbox as an item of a list."""
    return {
        "id": sandbox.id,
        "status": status_shown(sandbox, active),
        "runtime": sandbox.runtime,
        "size": SIZE,
        "region": sandbox.region,
        "createdAt": sandbox.created_at,
        "startedAt": sandbox.started_at,
        "endedAt": sandbox.ended_at,
        "expiresAt": sandbox.expires_at if sandbox.running else None,
        "duration": duration(sandbox),
        "isolation": sandbox.isolation,
        "ephemeral": sandbox.ephemeral,
        "name": sandbox.name,
        "metadata": sandbox.metadata,
        "reason": sandbox.reason,
    }


def whole(
    sandbox: Sandbox, active: bool, terminal_url: str | None, preview_base_url: str, artifacts: Kept | None
) -> dict[str, object]:
    """A sandbox with everything that a client may know of it."""
    return {
        **listed(sandbox, active),
        "terminalUrl": terminal_url,
        "previewBaseUrl": preview_base_url if sandbox.running else None,
        "capabilities": sandbox.capabilities,
        "pairedBrowser": None,
        "opencode": None,
        "browserPreview": None,
        "humanHandoff": None,
        "artifacts": kept(artifacts),
        "pauseKeeps": sandbox.pause_keeps,
        "diskLimit": sandbox.disk_limit,
        "pauseDurability": _durability(sandbox.kept_in_store) if sandbox.status is Status.PAUSED else None,
        "pausedAt": sandbox.paused_at,
        "fromCheckpoint": sandbox.from_checkpoint,
        "lifecycle": {
            "onExpiry": sandbox.lifecycle.on_expiry,
            "idlePauseMs": sandbox.lifecycle.idle_pause_ms,
            "autoResume": sandbox.lifecycle.auto_resume,
        },
        "envNames": sandbox.env_names,
    }


def browser_preview(browser: Browser, handoff: Handoff | None) -> dict[str, object]:
    """How a browser is, and who drives it."""
    return {
        "status": browser.status,
        "controlMode": browser.mode,
        "controller": handoff.controller if handoff is not None and handoff.mode != "ai" else None,
        "updatedAt": browser.updated_at,
    }


def handoff_shown(one: Handoff) -> dict[str, object]:
    """A handoff."""
    return {
        "requestId": one.id,
        "status": one.status,
        "reason": one.reason,
        "message": one.message,
        "requestedBy": one.requested_by,
        "exclusive": one.exclusive,
        "controller": one.controller,
        "resumePrompt": one.resume_prompt,
        "note": one.note,
        "requestedAt": one.requested_at,
        "acceptedAt": one.accepted_at,
        "completedAt": one.completed_at,
        "expiresAt": one.expires_at,
        "updatedAt": one.updated_at,
    }


def agent(one: Agent) -> dict[str, object]:
    """A sandbox's agent."""
    return {
        "enabled": True,
        "status": one.status,
        "reason": one.reason,
        "defaultAgent": one.wish.default_agent,
        "allowPromptApi": one.wish.prompts,
        "updatedAt": one.updated_at,
    }


def task(one: Task) -> dict[str, object]:
    """A task of an agent."""
    ran = None if one.started_at is None or one.ended_at is None else one.ended_at - one.started_at
    return {
        "taskId": one.id,
        "id": one.sandbox,
        "status": one.status,
        "prompt": one.prompt,
        "agent": one.agent,
        "sessionId": one.session,
        "metadata": one.metadata or {},
        "requestId": one.handoff,
        "result": one.result,
        "reason": one.reason,
        "message": one.message,
        "timeoutMs": one.timeout_ms,
        "createdAt": one.created_at,
        "startedAt": one.started_at,
        "endedAt": one.ended_at,
        "durationMs": ran,
    }


def task_event(one: TaskEvent) -> dict[str, object]:
    """Something that happened in a task."""
    return {"taskId": one.task, "n": one.n, "at": one.at, "kind": one.kind, **one.data}


def created(sandbox: Sandbox) -> dict[str, object]:
    """What a create answers at once."""
    return {
        "id": sandbox.id,
        "status": sandbox.status,
        "runtime": sandbox.runtime,
        "size": SIZE,
        "capabilities": sandbox.capabilities,
    }


def duration(sandbox: Sandbox) -> int | None:
    """Billed ms, null until it has ended."""
    return sandbox.billed_ms if sandbox.status in OVER else None


def event(happened: Event) -> dict[str, object]:
    """An event as it goes over a stream."""
    return {
        "type": happened.type,
        "id": happened.sandbox,
        "sequence": happened.sequence,
        "at": happened.at,
        "data": happened.data,
    }


def happening(event: Event) -> dict[str, object]:
    """An event as a line of a timeline."""
    return {
        "sequence": event.sequence,
        "at": event.at,
        "type": event.type,
        "actor": event.actor,
        "data": event.data,
    }


def command(row: Command) -> dict[str, object]:
    """A command as an item of a list: what was run and how it ended, never what it read or wrote."""
    ended = row.ended_at
    return {
        "processId": row.id,
        "kind": row.kind,
        "command": row.line,
        "cwd": row.cwd,
        "user": row.user,
        "background": row.background,
        "pty": row.pty,
        "state": "running" if ended is None else "finished",
        "outcome": row.outcome,
        "exitCode": row.exit_code,
        "signal": row.signal,
        "reason": row.reason,
        "timeoutMs": row.timeout_ms,
        "startedAt": row.started_at,
        "endedAt": ended,
        "durationMs": None if ended is None else ended - row.started_at,
        "stdoutBytes": row.stdout_bytes,
        "stderrBytes": row.stderr_bytes,
    }


def artifact(row: Artifact) -> dict[str, object]:
    """An artifact."""
    return {
        "key": row.key,
        "size": row.size,
        "contentType": row.content_type,
        "sha256": row.sha256,
        "createdAt": row.created_at,
        "sandboxId": row.sandbox,
    }


def checkpoint(row: Checkpoint) -> dict[str, object]:
    """A whole checkpoint."""
    return {
        "id": row.id,
        "sandboxId": row.sandbox,
        "name": row.name,
        "keeps": row.keeps,
        "lost": row.lost,
        "runtime": row.runtime,
        "isolation": row.isolation,
        "bytes": row.bytes,
        "stoppedMs": row.stood_ms,
        "durability": _durability(row.stored_at is not None),
        "createdAt": row.created_at,
    }


def _durability(in_store: bool) -> str:
    return "store" if in_store else "node"


def kept(all_: Kept | None) -> dict[str, object] | None:
    """What there is of a sandbox's artifacts, null where there is nothing."""
    return None if all_ is None else {"count": all_.count, "bytes": all_.bytes, "updatedAt": all_.updated_at}


def webhook(row: Webhook) -> dict[str, object]:
    """A webhook, without its secret."""
    return {
        "id": row.id,
        "url": row.url,
        "description": row.description,
        "eventTypes": [ALL] if row.event_types is None else row.event_types,
        "enabled": row.enabled,
        "disabledReason": row.disabled_reason,
        "disabledAt": row.disabled_at,
        "failingSince": row.failing_since,
        "createdAt": row.created_at,
    }


def delivery(row: Delivery) -> dict[str, object]:
    """A delivery with what was or will be sent."""
    return {
        "id": row.id,
        "webhookId": row.webhook,
        "messageId": row.message,
        "type": row.type,
        "sandboxId": row.sandbox,
        "sequence": row.sequence,
        "state": row.state,
        "attempts": row.attempts,
        "createdAt": row.created_at,
        "lastAttemptAt": row.attempted_at,
        "nextAttemptAt": row.due_at,
        "deliveredAt": row.delivered_at,
        "responseStatus": row.status,
        "error": row.error,
        "payload": orjson.loads(row.body),
    }
