"""The command `boxkeep`; what is installed beside it adds its commands by the entry-point group `boxkeep.commands`."""

from importlib.metadata import entry_points

import typer

GROUP = "boxkeep.commands"


def application() -> typer.Typer:
    """The command with all that is installed."""
    app = typer.Typer(
        help="Isolated Linux sandboxes for code and AI agents.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.callback()(lambda: None)
    for found in entry_points(group=GROUP):
        found.load()(app)
    return app


def main() -> None:
    """Run the command line."""
    application()()


if __name__ == "__main__":
    main()
