"""All commands of the server, as the entry point of the group `boxkeep.commands` gives them.

Their modules import control plane and node only when a command needs them: the others answer in a fraction of the time.
"""

import typer

from boxkeep_server.cli import audit, doctor, images, keys, services, trial


def add_to(app: typer.Typer) -> None:
    """Add the server's commands."""
    for subject in (services, doctor, keys, audit, images, trial):
        subject.add_to(app)
