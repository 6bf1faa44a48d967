"""Removing trees that a tenant has made: however deep they are, and by no link out of them."""

import os
import subprocess
from pathlib import Path


def remove_tree(path: Path) -> None:
    """Remove a tree or a file. Python's own rmtree goes no deeper than its stack. May be repeated.

    Raises:
        OSError
    """
    done = subprocess.run(
        ["rm", "--recursive", "--force", "--one-file-system", "--", path], capture_output=True, check=False
    )
    if done.returncode != 0:
        raise OSError(f"{path} cannot be removed: {os.fsdecode(done.stderr[-500:]).strip()}")
