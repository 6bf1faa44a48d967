"""What a client may say of a sandbox: the bodies of create and change, and their exact sentences."""

import ipaddress
import math
import re
from typing import Annotated, Any, Literal

import orjson
from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from boxkeep_server.model.checkpoints import FORKS_MOST
from boxkeep_server.model.sandboxes import (
    ENV_BYTES,
    METADATA_BYTES,
    RUNTIMES,
    SIZE,
    Lifecycle,
    NetworkPolicy,
    NewSandbox,
    Runtime,
)
from boxkeep_server.web.capabilities import Capabilities
from boxkeep_server.web.fields import Fields, Text, sentence

LONGEST_DURATION_MS = 10 * 365 * 86_400_000
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
REGION = re.compile(r"[a-z]{3}")
MOST_NETWORKS = 64


def _runtime(value: object) -> object:
    if value not in RUNTIMES:
        raise sentence(f"Invalid runtime. Must be one of: {', '.join(RUNTIMES)}")
    return value


def _size(value: object) -> object:
    if value != SIZE:
        given = value if isinstance(value, str) else orjson.dumps(value).decode()
        raise sentence(f"Invalid size: '{given[:100]}'. Must be one of: {SIZE}")
    return value


def _region(value: object) -> object:
    if not isinstance(value, str) or not REGION.fullmatch(value):
        raise sentence("Invalid region. Must be a 3-letter lowercase code")
    return value


def _duration(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= LONGEST_DURATION_MS:
        raise sentence("Invalid maxDurationMs")
    return math.ceil(value)


def _map_of_strings(field: str, most: int) -> BeforeValidator:
    def check(value: object) -> object:
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise sentence(f"Invalid {field}: must be a map of strings")
        if any("\0" in name or "\0" in item for name, item in value.items()):
            raise sentence(f"Invalid {field}: must not contain NUL")
        if sum(len(name.encode()) + len(item.encode()) for name, item in value.items()) > most:
            raise sentence(f"Invalid {field}: must have at most {most} bytes in all")
        return value

    return BeforeValidator(check)


def _env_names(value: dict[str, Any]) -> object:
    if isinstance(value, dict):
        for name in value:
            if not ENV_NAME.fullmatch(name):
                raise sentence(f"Invalid env: '{name[:100]}' is not a name. Names match [A-Za-z_][A-Za-z0-9_]*")
    return value


def _network(value: object) -> object:
    if not isinstance(value, str):
        raise sentence("Invalid network.allow: must be a list of networks such as 203.0.113.0/24")
    try:
        return str(ipaddress.IPv4Network(value, strict=False))
    except ValueError as error:
        raise sentence(
            f"Invalid network.allow: '{value[:100]}' is not an IPv4 network such as 203.0.113.0/24"
        ) from error


def no_control(value: object) -> object:
    """Refuse a name that would not be shown as it is."""
    if isinstance(value, str) and not value.isprintable():
        raise sentence("Invalid name: must not contain control characters")
    return value


Name = Annotated[str, Field(max_length=200), BeforeValidator(no_control)]
Env = Annotated[dict[str, str], BeforeValidator(_env_names), _map_of_strings("env", ENV_BYTES)]
Metadata = Annotated[dict[str, str], _map_of_strings("metadata", METADATA_BYTES)]
Duration = Annotated[
    int,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_DURATION_MS}),
]
Cidr = Annotated[str, BeforeValidator(_network)]


class Network(Fields):
    """What the sandbox may reach. `allow` narrows it to these networks; refused ranges stay refused."""

    internet: bool = True
    allow: Annotated[list[Cidr], Field(max_length=MOST_NETWORKS)] | None = None


class LifecycleFields(Fields):
    """What the sandbox does by itself: at the end of its time, when nothing runs in it and nobody calls, and when
    somebody calls while it is paused."""

    on_expiry: Literal["end", "pause"] | None = None
    idle_pause_ms: Annotated[int, Field(ge=1000, le=LONGEST_DURATION_MS)] | None = None
    auto_resume: bool | None = None

    def wish(self) -> Lifecycle:
        """The same in the model's words."""
        return Lifecycle(self.on_expiry or "end", self.idle_pause_ms, self.auto_resume is True)


class CreateBody(Fields):
    """The wish for a sandbox; every field has a default."""

    runtime: Annotated[Runtime, BeforeValidator(_runtime)] | None = None
    size: Annotated[Literal["standard"], BeforeValidator(_size)] | None = None
    env: Env | None = Field(default=None, repr=False)
    ephemeral: bool | None = None
    max_duration_ms: Duration | None = None
    region: Annotated[str, Field(pattern="^[a-z]{3}$"), BeforeValidator(_region)] | None = None
    capabilities: Capabilities | None = None
    name: Name | None = None
    metadata: Metadata | None = None
    isolation: Literal["runsc", "runc"] | None = None
    network: Network | None = None
    lifecycle: LifecycleFields | None = None
    from_checkpoint: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    memory: bool | None = None
    count: Annotated[int, Field(ge=1, le=FORKS_MOST)] | None = None

    @model_validator(mode="after")
    def _of_forks(self) -> "CreateBody":
        for name, value in (("count", self.count), ("memory", self.memory)):
            if value is not None and self.from_checkpoint is None:
                raise sentence(f"Invalid {name}: needs fromCheckpoint")
        return self

    def wish(self) -> NewSandbox:
        """The same in the model's words, defaults filled in."""
        network = self.network or Network()
        asked = self.capabilities
        return NewSandbox(
            runtime=self.runtime,
            env=self.env or {},
            ephemeral=self.ephemeral is not False,
            max_duration_ms=self.max_duration_ms,
            region=self.region,
            capabilities=None if asked is None else asked.shown(),
            proxy_url=None if asked is None else asked.proxy_url,
            name=self.name,
            metadata=self.metadata or {},
            isolation=self.isolation,
            network=NetworkPolicy(network.internet, None if network.allow is None else tuple(network.allow)),
            lifecycle=(self.lifecycle or LifecycleFields()).wish(),
            from_checkpoint=self.from_checkpoint,
            memory=self.memory is not False,
        )


class PatchBody(Fields):
    """A change of a sandbox: what is absent stays; `null` takes name and metadata away."""

    id: Text
    max_duration_ms: Duration | None = None
    name: Name | None = None
    metadata: Metadata | None = None
