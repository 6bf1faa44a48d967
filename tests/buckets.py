"""A bucket of a real S3-compatible server on loopback, and the settings of a service that keeps its blobs there."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

from tests.instances import free_port


@dataclass
class Bucket:
    """Where a bucket is, and a client that sees what is in it."""

    name: str
    endpoint: str
    client: Any
    server: ThreadedMotoServer

    @property
    def settings(self) -> dict[str, str]:
        """`BOXKEEP_…` variables of a service that uses it."""
        return {
            "BOXKEEP_BLOBS__BUCKET": self.name,
            "BOXKEEP_BLOBS__ENDPOINT": self.endpoint,
            "BOXKEEP_BLOBS__REGION": "us-east-1",
            "BOXKEEP_BLOBS__ACCESS_KEY_ID": "key",
            "BOXKEEP_BLOBS__SECRET_ACCESS_KEY": "secret",
        }

    @contextmanager
    def away(self) -> Iterator[None]:
        """Within it nobody answers where the bucket is; afterwards it has what it had."""
        host, port = self.server.get_host_and_port()
        self.server.stop()
        try:
            yield
        finally:
            self.server = ThreadedMotoServer(host, port)
            self.server.start()

    def all_keys(self) -> list[str]:
        """The keys of all objects."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return sorted(one["Key"] for page in pages for one in page.get("Contents", []))

    def read(self, key: str) -> bytes:
        """An object's bytes."""
        content: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return content

    def write(self, key: str, content: bytes) -> None:
        """Put other bytes in an object's place."""
        self.client.put_object(Bucket=self.name, Key=key, Body=content)


@contextmanager
def bucket(name: str) -> Iterator[Bucket]:
    """An empty bucket of a server of its own."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", free_port())
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
        )
        client.create_bucket(Bucket=name)
        made = Bucket(name, endpoint, client, server)
        yield made
        server = made.server
    finally:
        server.stop()
