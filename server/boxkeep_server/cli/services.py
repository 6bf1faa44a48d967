"""`boxkeep serve`, `boxkeep node`, `boxkeep down`: the services, and the end of everything."""

import asyncio
import logging
import sys
from typing import Annotated

import typer

from boxkeep_server.cli.session import as_account, become_account, fail, need_root, settings
from boxkeep_server.model.errors import BoxkeepError
from boxkeep_server.settings import Settings


def serve() -> None:
    """Run the control plane in the foreground; as root it becomes the service's account first."""
    from boxkeep_server import serving  # noqa: PLC0415

    read = settings()
    become_account(read)
    _log_lines()
    try:
        serving.serve(read)
    except BoxkeepError as error:
        fail(error.sentence)


def gateway() -> None:
    """Run the gateway of previews: `serve` does that, over the socket that is this command's standard input."""
    from boxkeep_server.gateway import process  # noqa: PLC0415

    _log_lines()
    try:
        process.serve_previews(settings(), sys.stdin.fileno())
    except BoxkeepError as error:
        fail(error.sentence)


def node() -> None:
    """Run the node in the foreground. Machines go on when it stops."""
    from boxkeep_server.node import daemon, ground  # noqa: PLC0415
    from boxkeep_server.node.volumes import OtherVolume  # noqa: PLC0415

    need_root("node")
    _log_lines()
    try:
        daemon.run_on(settings(), ground.lay)
    except (daemon.NodeRuns, daemon.NothingToRunIn, OtherVolume) as error:
        fail(str(error))


def down(
    without_store: Annotated[
        bool, typer.Option("--without-store", help="Do not write it down: for a store that cannot be opened.")
    ] = False,
) -> None:
    """End every sandbox (`operator_shutdown`) and remove all that the stopped node left: data stays."""
    from boxkeep_server.node import daemon, ground  # noqa: PLC0415
    from boxkeep_server.node.layer import MachineFailed  # noqa: PLC0415
    from boxkeep_server.node.volumes import OtherVolume  # noqa: PLC0415

    need_root("down")
    read = settings()
    _log_lines(logging.WARNING)
    try:
        ended = daemon.take_down(read, ground.lay)
    except daemon.NodeRuns as error:
        fail(f"{error}: stop the node first")
    except (daemon.NothingToRunIn, OtherVolume) as error:
        fail(str(error))
    except MachineFailed as error:
        fail(f"not every machine is gone: {error}")
    if without_store:
        for sandbox in ended:
            typer.echo(f"ended {sandbox}")
        return
    as_account(read, lambda: _end_all(read))


def halt() -> None:
    """Kill every machine at once, as the host goes down: nothing is written, the next node finds them dead by that."""
    from boxkeep_server.node.cgroups import host_cgroups  # noqa: PLC0415

    need_root("halt")
    cgroups = host_cgroups(settings().instance)
    for machine in cgroups.machines():
        cgroups.kill(machine)


def _end_all(read: Settings) -> None:
    from boxkeep_server import serving  # noqa: PLC0415

    try:
        ended = asyncio.run(serving.end_all(read))
    except BoxkeepError as error:
        fail(f"machines are gone, but the store does not know: {error.sentence}")
    for sandbox in ended:
        typer.echo(f"ended {sandbox}: operator_shutdown")


def _log_lines(level: int = logging.INFO) -> None:
    import structlog  # noqa: PLC0415

    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # What it tells of WebSockets has their queries, and those have tokens; the application logs them by their paths.
    logging.getLogger("uvicorn.error").setLevel(max(level, logging.WARNING))
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=("timestamp", "level", "event"), bool_as_flag=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (serve, node, down):
        app.command()(command)
    for command in (gateway, halt):
        app.command(hidden=True)(command)
