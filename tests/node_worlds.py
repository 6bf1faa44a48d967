"""Node processes over a machine layer in memory, and what is asked of them."""

import asyncio
import secrets
from collections.abc import Callable

from boxkeep_server.model.ids import new_id
from boxkeep_server.model.node_api import (
    ClaimWish,
    LeakCount,
    Leaks,
)
from boxkeep_server.node.bases import Bases
from boxkeep_server.node.files import files_in
from boxkeep_server.node.images import Images
from boxkeep_server.node.layer import (
    no_tripwire,
)
from boxkeep_server.node.plain_directory import PlainDirectory
from boxkeep_server.node.pool import Kind
from boxkeep_server.node.service import Service, World
from tests.node_layers import Layer


def service_over(
    layer: Layer,
    *,
    slots: int = 10,
    warm: dict[Kind, int] | None = None,
    starts_at_once: int = 2,
    step: Callable[[str], None] = no_tripwire,
) -> Service:
    """A node process over a layer; its files are in the layer's host's directory."""
    host = layer.host

    async def leaks(owned: set[str]) -> Leaks:
        strays = tuple(machine for machine in layer.found() if machine not in owned)
        return Leaks(leaks=(LeakCount(kind="machines", items=strays),))

    return Service(
        World(
            maker=layer,
            keeper=layer,
            bases=Bases(
                Images(PlainDirectory(host.lib, host.lib), host.lib / "pool", host.lib / "images"),
                host.lib / "images",
                host.lib / "guests",
            ),
            observer=layer,
            files=files_in(host.lib, step),
            stock=lambda: host.stock,
            leaks=leaks,
            memory=lambda: host.memory,
            now=host.now,
            uptime=host.uptime,
            new_id=new_id,
            new_secret=lambda: secrets.token_hex(32),
            boot_id=host.boot,
            node_id="n" * 32,
            region="loc",
            version="1",
            slots=slots,
            warm=warm or {},
            starts_at_once=starts_at_once,
            disk_limit=True,
            free_disk=lambda: host.free_disk,
            calm_s=0.0,
        )
    )


async def adopted(
    layer: Layer, *, slots: int = 10, warm: dict[Kind, int] | None = None, starts_at_once: int = 2
) -> Service:
    """A node process that has taken over what there was."""
    service = service_over(layer, slots=slots, warm=warm, starts_at_once=starts_at_once)
    await service.adopt()
    return service


def wish(sandbox: str | None = None, epoch: int = 1, not_after: int = 5_000_000, **fields: object) -> ClaimWish:
    """A wish for a machine."""
    return ClaimWish.model_validate(
        {
            "sandbox": sandbox or new_id(),
            "epoch": epoch,
            "image": "base",
            "notAfter": not_after,
            "hostname": "box",
            "env": {"TOKEN": "s3cret-value"},
            **fields,
        }
    )


async def until(true: Callable[[], bool]) -> None:
    """Let everything else go on until something is so."""
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0)
