"""Images of a few files, made by hand as a builder would leave them."""

import json
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from boxkeep_server.model.images import Layers
from boxkeep_server.node.images import archive_of, current, digest_of, layers_of, put_layers
from boxkeep_server.node.layers import REMOVED, make_layer, pack


def add_layer(archives: Path, fill: Callable[[Path], object], removed: Collection[bytes] = ()) -> str:
    """Pack a layer that `fill` makes in a directory, and that removes these paths; its digest."""
    with tempfile.TemporaryDirectory(dir=archives, prefix=".made-") as scratch:
        layer = Path(scratch) / "layer"
        fill(make_layer(layer))
        (layer / REMOVED).write_bytes(b"".join(path + b"\0" for path in removed))
        pack(layer, Path(scratch) / "packed")
        digest = digest_of(Path(scratch) / "packed")
        (Path(scratch) / "packed").rename(archive_of(archives, digest))
    return digest


def publish(archives: Path, name: str, image: Layers) -> Layers:
    """Have an image be the current one of its name."""
    put_layers(archives, image)
    (archives / f"{name}.json").write_text(json.dumps({"name": name, "digest": image.digest}))
    return image


def base_alone(archives: Path, place: Path) -> Path:
    """A directory of images with the smallest of those in `archives` alone, for disks that are small or slow."""
    place.mkdir(parents=True, exist_ok=True)
    image = publish(place, "base", layers_of(archives, current(archives)["base"]))
    for digest in image.digests:
        shutil.copyfile(archive_of(archives, digest), archive_of(place, digest))
    return place
