"""`boxkeep images …`: what sandboxes begin from."""

import typer

from boxkeep_server.cli.session import fail, need_root, settings
from boxkeep_server.node.host_mirrors import read_host_mirrors
from boxkeep_server.node.image_build import Builder, BuildFailed
from boxkeep_server.node.images import current
from boxkeep_server.node.recipes import read_recipes

app = typer.Typer(help="Images.", no_args_is_help=True)


def _builder() -> Builder:
    return Builder(settings().images, read_recipes(), read_host_mirrors(), lambda line: typer.echo(line, err=True))


@app.command()
def build() -> None:
    """Build the images whose recipe, or what goes into them of this machine, has changed."""
    need_root("images build")
    try:
        built = _builder().build_all()
    except BuildFailed as error:
        fail(str(error))
    typer.echo(f"built {', '.join(built)}" if built else "all images are current")


@app.command("list")
def list_images() -> None:
    """List images: name, digest, and whether it is current."""
    builder = _builder()
    found = current(builder.directory)
    for name in builder.recipes:
        state = "missing" if name not in found else "current" if builder.is_current(name) else "outdated"
        typer.echo(f"{name:8}{found.get(name, '-'):34}{state}")


def add_to(parent: typer.Typer) -> None:
    """Add the commands of this file."""
    parent.add_typer(app, name="images")
