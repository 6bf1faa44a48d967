"""`boxkeep images …`: what sandboxes begin from."""

from collections.abc import Collection
from typing import Annotated

import typer

from boxkeep_server.cli.session import fail, need_root, settings
from boxkeep_server.model.images import SOFTWARE
from boxkeep_server.node.host_mirrors import read_host_mirrors
from boxkeep_server.node.image_build import Builder, BuildFailed
from boxkeep_server.node.images import current
from boxkeep_server.node.recipes import read_recipes

app = typer.Typer(help="Images.", no_args_is_help=True)


Wanted = Annotated[
    list[str] | None,
    typer.Option("--capability", help=f"Also with this software, whatever the settings say: {', '.join(SOFTWARE)}."),
]


def _builder(more: Collection[str] = ()) -> Builder:
    if unknown := set(more) - set(SOFTWARE):
        fail(f"no such capability: {', '.join(sorted(unknown))}; there are {', '.join(SOFTWARE)}")
    software = {*settings().node.capabilities, *more}
    return Builder(
        settings().images, read_recipes(software), read_host_mirrors(), lambda line: typer.echo(line, err=True)
    )


@app.command()
def build(capability: Wanted = None) -> None:
    """Build the images whose recipe, or what goes into them of this machine, has changed."""
    need_root("images build")
    try:
        built = _builder(capability or ()).build_all()
    except BuildFailed as error:
        fail(str(error))
    typer.echo(f"built {', '.join(built)}" if built else "all images are current")


@app.command("list")
def list_images() -> None:
    """List images: name, digest, and whether it is current, or there though the settings do not ask for it."""
    builder = _builder()
    found = current(builder.directory)
    for name in (*builder.recipes, *(one for one in found if one not in builder.recipes)):
        if name not in builder.recipes:
            state = "beside the settings"
        else:
            state = "missing" if name not in found else "current" if builder.is_current(name) else "outdated"
        typer.echo(f"{name:26}{found.get(name, '-'):34}{state}")


def add_to(parent: typer.Typer) -> None:
    """Add the commands of this file."""
    parent.add_typer(app, name="images")
