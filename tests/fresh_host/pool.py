"""Unpacks images into the pool of an installation that has never run: pool.py, as root, with BOXKEEP_CONFIG."""

import os
from pathlib import Path

from boxkeep_server.node.daemon import open_disks
from boxkeep_server.node.images import Images
from boxkeep_server.settings import read_settings

settings = read_settings(Path(os.environ["BOXKEEP_CONFIG"]))
settings.lib.mkdir(mode=0o711, parents=True)
disks = open_disks(settings)
try:
    Images(disks.volume, disks.images, settings.images).refresh()
finally:
    disks.volume.close()
