"""Prints the figures of a running Boxkeep beside docker, podman and the bare runtimes, all measured in the same run.

`--url` and `--key` name a service that runs; without them one is started and taken down again. No figure is asserted.
"""

import argparse
import contextlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import peers
from tests.bench.capabilities import GROUPS, Capabilities, capable_service
from tests.bench.figures import Bench
from tests.clients import Api
from tests.ingredients import base_tree, runsc_binary
from tests.services import Service, running_service

ISOLATIONS = ("runc", "runsc")
WORK = Path("/var/lib/boxkeep-test/peers")
WARM = '{"base/runc" = 3, "base/runsc" = 3}'


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--url", help="of a running service, with --key")
    parser.add_argument("--key", help="an API key of an organisation without limits", default=os.environ.get("KEY"))
    parser.add_argument("--isolation", action="append", choices=ISOLATIONS, help="only this one; may be repeated")
    parser.add_argument("--only", action="append", help="only this group, as `pauses`; may be repeated")
    parser.add_argument("--scale", type=float, default=1.0, help="1 for all samples, 0.1 for a tenth")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--only-peers", action="store_true")
    parser.add_argument("--rootfs", type=Path, help="the tree that peers run; by default the base image")
    return parser.parse_args()


@contextlib.contextmanager
def plain_service() -> Iterator[Service]:
    """A service of our own with warm machines."""
    with running_service({"BOXKEEP_NODE__WARM": WARM, "BOXKEEP_NODE__MACHINE_MEMORY_MIB": "4096"}) as service:
        yield service


@contextlib.contextmanager
def bench_of(
    asked: argparse.Namespace, own: Callable[[], contextlib.AbstractContextManager[Service]] = plain_service
) -> Iterator[Bench]:
    """The service that was named, or one of our own."""
    if asked.url is not None:
        with Api(asked.url, asked.key) as api:
            yield Bench(api, None, asked.scale)
        return
    with own() as service:
        yield Bench(service.api("bench"), service, asked.scale)


def machine() -> str:
    """Of what these figures are."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} processors, {memory:.0f} GiB, Linux {platform.release()}"


def show_peers(asked: argparse.Namespace) -> None:
    """Measure the peers and print their table."""
    print("\n| peer | run `true` in a new container, p50 / p99 | exec `true`, p50 / p99 |\n|---|---|---|", flush=True)
    for peer in peers.measure(asked.rootfs or base_tree(), runsc_binary(), WORK):
        print(peers.row(peer), flush=True)


def show_disk(service: Service) -> None:
    """What the images take on the disk."""
    told = subprocess.run(["du", "-sm", str(base_tree())], capture_output=True, text=True, check=False).stdout
    print(f"| disk: base image | | {told.split()[0]} MiB |")
    print(f"| disk: free beside {service.root} | | {shutil.disk_usage(service.root).free >> 30} GiB |")


def measure(asked: argparse.Namespace, isolations: tuple[str, ...], only: frozenset[str]) -> None:
    """Measure the groups in `only`, or all; those of capabilities on a service that has them."""
    if not only or only - GROUPS:
        with bench_of(asked) as bench:
            bench.all(isolations, only)
            if bench.service is not None:
                show_disk(bench.service)
    if not only or only & GROUPS:
        with bench_of(asked, capable_service) as bench:
            Capabilities(bench).all(isolations, only)


def main() -> None:
    """Measure and print."""
    asked = arguments()
    print(f"{machine()}. Durations are p50 / p99 (count).", flush=True)
    if not asked.only_peers:
        print("\n| figure | isolation | |\n|---|---|---|", flush=True)
        measure(asked, tuple(asked.isolation or ISOLATIONS), frozenset(asked.only or ()))
    if not asked.without_peers:
        show_peers(asked)


if __name__ == "__main__":
    main()
