import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from boxkeep_server.node import oci, seccomp
from boxkeep_server.node.idmap import first_uid

LAYOUT = oci.Layout(
    root=Path("/run/m/root"),
    disk=Path("/run/m/disk"),
    sys=Path("/run/m/sys"),
    guest=Path("/opt/guest"),
    netns=Path("/run/netns/m"),
    cgroup="/boxkeep-x/m",
)
CEILINGS = oci.Ceilings(memory_bytes=1 << 30, cpus=1.5, pids=100, disk_bytes=1 << 30)
HOST = oci.Host(open_files=20_000, swap_accounting=True)


def config(isolation: Any = "runc", host: oci.Host = HOST) -> dict[str, Any]:
    return oci.config(
        isolation=isolation,
        layout=LAYOUT if isolation == "runc" else replace(LAYOUT, sys=None),
        ceilings=CEILINGS,
        host=host,
        hostname="box",
        argv=("/guest", "boot"),
        first_uid=first_uid(3) if isolation == "runc" else None,
    )


def names(section: list[dict[str, Any]]) -> list[str]:
    return [entry["destination"] for entry in section]


def test_runc_gets_a_user_namespace_of_its_own_range_and_runsc_none() -> None:
    linux = config()["linux"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": first_uid(3), "size": 65_536}]
    assert linux["gidMappings"] == linux["uidMappings"]
    assert {"type": "user"} in linux["namespaces"]
    assert {"type": "user"} not in config("runsc")["linux"]["namespaces"]
    assert "uidMappings" not in config("runsc")["linux"]


@pytest.mark.parametrize("isolation", ["runc", "runsc"])
def test_every_machine_joins_its_network_and_its_cgroup(isolation: str) -> None:
    linux = config(isolation)["linux"]
    assert {"type": "network", "path": "/run/netns/m"} in linux["namespaces"]
    assert linux["cgroupsPath"] == "/boxkeep-x/m"
    assert linux["resources"]["cpu"] == {"quota": 150_000, "period": 100_000}


@pytest.mark.parametrize("isolation", ["runc", "runsc"])
def test_nothing_of_the_host_is_mounted_writable_but_the_machines_log(isolation: str) -> None:
    binds = [mount for mount in config(isolation)["mounts"] if mount["type"] == "bind"]
    assert [mount["destination"] for mount in binds if "ro" not in mount["options"]] == [oci.LOG]
    assert all({"nosuid", "nodev"} <= set(mount["options"]) for mount in binds)


def test_no_two_ranges_of_uids_overlap_and_all_fit() -> None:
    assert first_uid(1) - first_uid(0) == 65_536
    assert first_uid(16_383) + 65_535 < 1 << 31
    with pytest.raises(ValueError, match="16384"):
        first_uid(16_384)


def test_limits_stay_within_what_the_host_can_give() -> None:
    limits = {limit["type"]: limit["hard"] for limit in config()["process"]["rlimits"]}
    assert limits == {"RLIMIT_NOFILE": 20_000, "RLIMIT_CORE": 1}
    without = config(host=replace(HOST, swap_accounting=False))
    assert config()["linux"]["resources"]["memory"] == {"limit": 1 << 30, "swap": 1 << 30}
    assert without["linux"]["resources"]["memory"] == {"limit": 1 << 30}


def test_runsc_has_room_for_its_own_threads() -> None:
    assert config()["linux"]["resources"]["pids"] == {"limit": 100}
    assert config("runsc")["linux"]["resources"]["pids"] == {"limit": 4096}


def test_what_the_guest_starts_is_bounded_by_few_capabilities() -> None:
    dangerous = {"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_MKNOD", "CAP_SYS_MODULE", "CAP_NET_RAW", "CAP_BPF"}
    for isolation in ("runc", "runsc"):
        assert not dangerous & set(config(isolation)["process"]["capabilities"]["bounding"])


def test_no_environment_of_the_node_gets_in() -> None:
    assert {entry.partition("=")[0] for entry in config()["process"]["env"]} == {"PATH", "HOME", "LANG"}


def test_the_boot_file_says_where_to_listen_and_what_is_the_limit() -> None:
    boot = oci.boot_file("m" * 32, "ab" * 32, "runsc", CEILINGS)
    assert boot["listen"] == ["0.0.0.0", 7071]
    assert boot["memoryLimitBytes"] == 1 << 30
    assert boot["processLimit"] == CEILINGS.pids // 4
    assert oci.boot_file("m" * 32, "ab" * 32, "runc", CEILINGS)["processLimit"] == 0
    json.dumps(boot)


def test_no_call_is_both_allowed_and_refused_without_a_condition() -> None:
    unconditional: dict[str, set[str]] = {}
    for rule in seccomp.profile("x86_64")["syscalls"]:
        if not rule["args"]:
            unconditional.setdefault(rule["action"], set()).update(rule["names"])
    assert not unconditional["SCMP_ACT_ALLOW"] & unconditional["SCMP_ACT_ERRNO"]
    assert {"mount", "bpf", "keyctl", "io_uring_setup", "setns"} <= unconditional["SCMP_ACT_ERRNO"]
    assert "socket" not in unconditional["SCMP_ACT_ALLOW"] | unconditional["SCMP_ACT_ERRNO"]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_only_the_hosts_own_architecture_may_call(machine: str) -> None:
    assert len(seccomp.profile(machine)["architectures"]) == 1
    assert seccomp.profile(machine)["defaultAction"] == "SCMP_ACT_ERRNO"
