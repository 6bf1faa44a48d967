"""Removing trees that a tenant has made: however deep they are, and by no link out of them."""

import os
import subprocess
from pathlib import Path


def remove_tree(path: Path) -> None:
    """Remove a tree or a file. Python's own rmtree goes no deeper than its stack. May be repeated.

    Raises:
        OSError
    """
    _remove(path)


def remove_in(directory: int, name: str) -> None:
    """The same for what has a name in an open directory."""
    _remove(Path(f"/proc/self/fd/{directory}") / name, directory)


def _remove(path: Path, *descriptors: int) -> None:
    argv: list[str | Path] = ["rm", "--recursive", "--force", "--one-file-system", "--", path]
    done = subprocess.run(argv, pass_fds=descriptors, capture_output=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{path} cannot be removed: {os.fsdecode(done.stderr[-500:]).strip()}")
