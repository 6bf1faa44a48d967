"""Which store of blobs an instance is set to, and whether snapshots are copied there."""

from boxkeep_server.blobs.interface import Blobs
from boxkeep_server.blobs.local import LocalBlobs
from boxkeep_server.blobs.s3 import Bucket, S3Blobs
from boxkeep_server.settings import Settings


def snapshots_copied(settings: Settings) -> bool:
    """Whether snapshots are copied to the store of blobs: to a directory of the same machine only if that is asked."""
    wished = settings.blobs.snapshots
    return wished == "always" or (wished == "bucket" and settings.blobs.bucket is not None)


def blobs_of(settings: Settings) -> Blobs:
    """The store of blobs that an instance is set to: its bucket, or a directory of its own."""
    wished = settings.blobs
    if wished.bucket is None:
        return LocalBlobs(settings.lib / "control" / "blobs")
    return S3Blobs(
        Bucket(
            wished.bucket,
            wished.prefix,
            wished.endpoint,
            wished.region,
            wished.path_style,
            wished.access_key_id,
            wished.secret_access_key,
            wished.timeout_s,
        )
    )
