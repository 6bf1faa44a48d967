"""All commands of the server, as the entry point of the group `boxkeep.commands` gives them."""

import typer

from boxkeep_server.cli import doctor, images, keys, services


def add_to(app: typer.Typer) -> None:
    """Add the server's commands."""
    for subject in (services, doctor, keys, images):
        subject.add_to(app)
