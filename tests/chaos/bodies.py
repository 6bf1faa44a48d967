"""The machines of a running instance as its host sees them, for whoever means to hurt them from outside."""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from tests.leftovers import machine_processes
from tests.services import Service


@dataclass(frozen=True)
class Body:
    """One machine, whose it is, and its processes on the host."""

    machine: str
    sandbox: str
    processes: dict[int, str]
    """By pid what it is: `sentry`, `gofer`, `first` (PID 1 of a machine under runc) or `inner`."""

    def of(self, *kinds: str) -> list[int]:
        """The pids of its processes of these kinds."""
        return [pid for pid, kind in self.processes.items() if kind in kinds]


def bodies(service: Service) -> list[Body]:
    """Every machine that is bound to a sandbox now, with the processes that it has."""
    bound = {}
    for path in (service.lib / "claims").glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            binding = json.loads(path.read_bytes())
            bound[binding["machine"]] = binding["sandbox"]
    found: dict[str, dict[int, str]] = {machine: {} for machine in bound}
    for pid in machine_processes(service.instance):
        with contextlib.suppress(OSError):
            groups = Path(f"/proc/{pid}/cgroup").read_text()
            for machine in (one for one in bound if one in groups):
                found[machine][pid] = _kind(pid)
    return [Body(machine, bound[machine], processes) for machine, processes in found.items() if processes]


def body_of(service: Service, sandbox: str) -> Body:
    """The machine of a sandbox that has one."""
    (body,) = [one for one in bodies(service) if one.sandbox == sandbox]
    return body


def _kind(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    name = os.fsdecode(words[0])
    if "runsc-sandbox" in name:
        return "sentry"
    if "runsc-gofer" in name:
        return "gofer"
    inner = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("NSpid:")]
    return "first" if inner and inner[0].split()[-1] == "1" else "inner"
