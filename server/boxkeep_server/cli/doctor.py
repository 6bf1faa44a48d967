"""`boxkeep doctor`: what this host can and cannot do, how to mend it, and what is left over."""

import asyncio
import json
from typing import Annotated

import typer

from boxkeep_server.cli.session import fail, need_root, settings
from boxkeep_server.model.node_api import Leaks
from boxkeep_server.node import doctor as host
from boxkeep_server.node.doctor_ports import Ports
from boxkeep_server.node.findings import render


def doctor(
    leaks: Annotated[bool, typer.Option("--leaks", help="Count what belongs to no sandbox instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what this host can and cannot do, and how to mend it. Ends with 1 where Boxkeep cannot run."""
    need_root("doctor")
    if leaks:
        _show_leaks(as_json)
        return
    read = settings()
    wanted = host.Wanted(
        read.instance,
        read.node.subnet,
        read.lib,
        read.node.isolations,
        read.node.disks,
        Ports(read.control.listen, read.control.port, read.control.preview_port),
    )
    findings = host.examine(wanted)
    if as_json:
        typer.echo(json.dumps({"findings": [one.plain() for one in findings]}))
    else:
        typer.echo(render(findings))
    if any(one.fatal for one in findings):
        raise SystemExit(1)


def _show_leaks(as_json: bool) -> None:
    from boxkeep_server.nodes.client import NodeUnreachable  # noqa: PLC0415

    try:
        counted = asyncio.run(_leaks())
    except NodeUnreachable as error:
        fail(f"the node does not answer: {error}")
    if as_json:
        typer.echo(counted.model_dump_json())
    else:
        for one in counted.leaks:
            typer.echo(f"{one.kind:14}{len(one.items):4}  {' '.join(one.items[:5])}")
    if counted.total:
        raise SystemExit(1)


async def _leaks() -> Leaks:
    from boxkeep_server.nodes.client import NodeClient  # noqa: PLC0415

    async with NodeClient(settings().node_socket) as node:
        return await node.leaks()


def add_to(parent: typer.Typer) -> None:
    """Add the command of this file."""
    parent.command()(doctor)
