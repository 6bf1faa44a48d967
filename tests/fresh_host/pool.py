"""Unpacks images into the pool of an installation that has never run: pool.py, as root, with BOXKEEP_CONFIG."""

import os
from pathlib import Path

from boxkeep_server.node.disks import Disks
from boxkeep_server.node.hostfacts import pool_bytes
from boxkeep_server.node.images import Images
from boxkeep_server.settings import read_settings

settings = read_settings(Path(os.environ["BOXKEEP_CONFIG"]))
file = settings.lib / "pool.img"
settings.lib.mkdir(mode=0o711, parents=True)
disks = Disks(file, settings.run / "pool")
disks.open(pool_bytes(settings.node.disk_gib, file))
try:
    Images(disks.images, settings.images).refresh()
finally:
    disks.close()
