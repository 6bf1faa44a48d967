"""`boxkeep keys …` and `boxkeep orgs`: who may call."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from boxkeep_server.cli.session import become_account, fail, settings
from boxkeep_server.model.errors import BoxkeepError
from boxkeep_server.model.scopes import Scope

if TYPE_CHECKING:
    from boxkeep_server.control.keys import Keys

T = TypeVar("T")

app = typer.Typer(help="API keys.", no_args_is_help=True)


@app.command()
def create(
    org: Annotated[str, typer.Option(help="Name of the organisation; made when it is not there.")],
    plan: Annotated[
        str | None, typer.Option(help="Its plan: free, builder, pro, scale, unlimited or one of yours.")
    ] = None,
    scope: Annotated[list[Scope] | None, typer.Option(help="A right; may be given several times. None: all.")] = None,
) -> None:
    """Make a key and print it, and nothing else: it is shown this once."""
    made = _with_keys(lambda keys: keys.create(org, plan, frozenset(scope or ())))
    typer.echo(made.key)


@app.command("list")
def list_keys(org: Annotated[str | None, typer.Option(help="Only this organisation's.")] = None) -> None:
    """List keys: id, last characters, scopes, state."""
    for key in _with_keys(lambda keys: keys.list(org)):
        state = "revoked" if key.revoked_at else "live"
        scopes = ",".join(sorted(key.scopes)) or "all"
        typer.echo(f"{key.id}  …{key.hint}  {state}  {_day(key.created_at)}  {scopes}")


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(help="The id that `keys list` shows.")]) -> None:
    """Revoke a key; it is refused everywhere within a second."""
    _with_keys(lambda keys: keys.revoke(key_id))


def orgs() -> None:
    """List organisations: id, name, plan."""
    for one in _with_keys(lambda keys: keys.organisations()):
        typer.echo(f"{one.id}  {one.name}  {one.plan}")


def _with_keys(work: "Callable[[Keys], Awaitable[T]]") -> T:
    from boxkeep_server import serving  # noqa: PLC0415

    read = settings()
    become_account(read)

    async def opened() -> T:
        async with serving.open_keys(read) as keys:
            return await work(keys)

    try:
        return asyncio.run(opened())
    except BoxkeepError as error:
        fail(error.sentence)


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d")


def add_to(parent: typer.Typer) -> None:
    """Add the commands of this file."""
    parent.add_typer(app, name="keys")
    parent.command()(orgs)
