"""Ways out that an attacker tries first: each fails, and host, guest and neighbour are as they were."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import Api, Sandbox, eventually, fresh
from tests.leftovers import on_host
from tests.services import Service

HOST_FILES = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/net/ipv4/ip_forward",
    "/etc/passwd",
)

MUST_FAIL = [
    "mount -t tmpfs none /mnt",
    "mount --bind / /mnt",
    "mount -t proc proc /mnt",
    "mount -t cgroup2 none /mnt",
    "umount -l /proc",
    "mount -o remount,rw /sys",
    "unshare --mount true",
    "unshare --user --map-root-user true",
    "nsenter --target 1 --mount true",
    "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk",
    "mknod /workspace/mem c 1 1 && head -c 1 /workspace/mem",
    'f=/proc/sys/kernel/core_pattern; v=$(cat $f) && echo "$v" > $f',
    "f=/proc/sys/kernel/modprobe; v=$(cat $f) && echo $v > $f",
    "echo h > /proc/sysrq-trigger",
    "f=/proc/sys/net/ipv4/ip_forward; v=$(cat $f) && echo $v > $f",
    "f=/proc/sys/vm/drop_caches; echo 1 > $f",
    "echo -1000 > /proc/1/oom_score_adj",
    "head -c 1 /proc/kcore",
    "head -c 1 /dev/mem",
    "head -c 1 /dev/kmsg",
    "dmesg",
    "modprobe dummy",
    "date -s @$(date +%s)",
    "chroot /proc/1/root/../.. ls /root/.ssh",
    "head -c 1 /proc/1/mem",
    "cat /proc/1/environ",
    "iptables -L || nft list ruleset",
    "ip link add dummy0 type dummy",
    "echo > /sys/kernel/uevent_helper",
    "sh -c 'mkdir /sys/fs/cgroup/x && echo $$ > /sys/fs/cgroup/x/cgroup.procs && echo max > /sys/fs/cgroup/memory.max'",
    "swapon /dev/zero",
    "pivot_root / /mnt",
]

# Under gVisor these change or show what its own kernel keeps for this sandbox alone, so they may succeed.
GVISORS_OWN = {
    "unshare --user --map-root-user true",
    "f=/proc/sys/net/ipv4/ip_forward; v=$(cat $f) && echo $v > $f",
    "echo -1000 > /proc/1/oom_score_adj",
    "dmesg",
    "cat /proc/1/environ",
}


def host_files() -> dict[str, bytes | None]:
    """What the files hold; None for those that this kernel does not have."""
    return {file: Path(file).read_bytes() if Path(file).exists() else None for file in HOST_FILES}


@pytest.fixture(scope="module")
def before() -> dict[str, bytes | None]:
    return host_files()


@pytest.mark.parametrize("line", MUST_FAIL)
def test_the_attempt_fails(sandbox: Sandbox, isolation: str, before: dict[str, bytes | None], line: str) -> None:
    answer = sandbox.exec(line, timeout=20_000)
    assert answer["exitCode"] not in (0, None) or (isolation == "runsc" and line in GVISORS_OWN), answer
    assert host_files() == before
    assert sandbox.run("echo well") == "well\n"


def test_pid_1_cannot_be_killed_stopped_or_traced(sandbox: Sandbox) -> None:
    for sign in ("KILL", "STOP", "TERM", "INT", "HUP", "SEGV", "QUIT", "USR1"):
        sandbox.exec(f"kill -{sign} 1")
    assert sandbox.run("echo alive") == "alive\n"
    answer = sandbox.exec("command -v strace >/dev/null && timeout 5 strace -p 1; cat /proc/1/mem | head -c 1")
    assert answer["stdout"] == ""


def test_killing_everything_inside_leaves_a_working_sandbox(api: Api, isolation: str) -> None:
    with fresh(api, runtime="base", isolation=isolation) as box:
        process = box.background("sleep 600")
        box.exec("kill -9 -1")
        ended = box.wait(process)
        assert ended["outcome"] in ("signalled", "cancelled"), ended
        assert box.run("echo after") == "after\n"


def test_the_guests_files_cannot_be_replaced(sandbox: Sandbox) -> None:
    line = r"""
    set +e
    for path in $(tr '\0' '\n' < /proc/1/cmdline | grep '^/') ; do
      [ -e "$path" ] || continue
      rm -f "$path" 2>/dev/null && echo removed $path
      (echo x >> "$path") 2>/dev/null && echo wrote $path
      mv "$path" "$path.old" 2>/dev/null && echo moved $path
      mv "$(dirname $path)" /tmp/elsewhere 2>/dev/null && echo moved-directory $path
    done; true
    """
    assert sandbox.run(line) == ""
    assert sandbox.run("echo well") == "well\n"


def test_no_setuid_or_file_of_the_host_is_reached_through_proc(sandbox: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "host-secret"
    secret.write_text("not-for-the-inside")
    for way in ("/proc/1/root", "/proc/self/root", "/proc/1/cwd", "/.."):
        assert sandbox.exec(f"cat {way}{secret}")["exitCode"] != 0
    assert "not-for-the-inside" not in sandbox.exec(f"cat /proc/*/root{secret} 2>&1")["stdout"]


@pytest.fixture
def readable_file(service: Service) -> Iterator[Path]:
    """A file of the host that the services' account can read, there for one test."""
    path = service.root / "for-all-on-the-host"
    path.write_text("not-for-the-inside\n")
    path.chmod(0o644)
    yield path
    path.unlink()


def test_a_symlink_in_place_of_a_commands_output_shows_nothing_of_the_host(
    api: Api, isolation: str, readable_file: Path
) -> None:
    secret = readable_file
    box = api.ready(runtime="base", isolation=isolation)
    process = box.background("echo mine; sleep 600")
    eventually("its output", lambda: box.output(process) == b"mine\n", 10)
    found = box.exec(f"find / -path /proc -prune -o -name {process} -print 2>/dev/null")["stdout"].split()
    for directory in found:
        box.exec(f"cd {directory} && for f in *; do ln -sf {secret} $f; done")
    assert b"not-for" not in box.output(process)
    box.background("sleep 601")
    _end_the_machine(box, isolation)
    eventually("to be over", lambda: api.get(box.id)["status"] in ("ended", "failed"), 40)
    assert box.wait(process)["outcome"] == "sandbox_ended"
    response = api.ask("GET", "/processes/output", params={"id": box.id, "processId": process, "stream": "stdout"})
    assert b"not-for-the-inside" not in response.content


def _end_the_machine(box: Sandbox, isolation: str) -> None:
    """kill -9 from the host where its processes can be seen, else end it by the API."""
    if isolation == "runc":
        (sleeper,) = on_host("sleep 601")[:1]
        for line in Path(f"/proc/{sleeper}/status").read_text().splitlines():
            if line.startswith("PPid"):
                os.kill(int(line.split()[1]), 9)
    else:
        box.api.delete(box.id)


def test_a_machines_death_is_told_and_its_commands_have_an_outcome(api: Api) -> None:
    box = api.ready(runtime="base", isolation="runc")
    process = box.background("echo last words; exec sleep 602")
    (sleeper,) = eventually("it to be seen", lambda: on_host("sleep 602") or None, 10)
    eventually("its output", lambda: box.output(process) == b"last words\n", 10)
    parent = next(
        int(line.split()[1])
        for line in Path(f"/proc/{sleeper}/status").read_text().splitlines()
        if line.startswith("PPid")
    )
    os.kill(parent, 9)
    seen = eventually("failed", lambda: x if (x := api.get(box.id))["status"] in ("failed", "ended") else None, 40)
    assert (seen["status"], seen["reason"]) == ("failed", "machine_died")
    assert box.wait(process)["outcome"] == "sandbox_ended"
    assert box.output(process) == b"last words\n"


def test_runc_maps_root_to_an_ordinary_user_of_the_host(api: Api) -> None:
    with fresh(api, runtime="base", isolation="runc") as box:
        box.background("exec sleep 603")
        (sleeper,) = eventually("it to be seen", lambda: on_host("sleep 603") or None, 10)
        status = Path(f"/proc/{sleeper}/status").read_text().splitlines()
        uids = next(line for line in status if line.startswith("Uid")).split()[1:]
        assert all(int(uid) >= 65536 for uid in uids), uids
        seccomp = next(line for line in status if line.startswith("Seccomp:")).split()[1]
        assert seccomp == "2"
        bounding = int(next(line for line in status if line.startswith("CapBnd")).split()[1], 16)
        forbidden = {"SYS_ADMIN": 21, "SYS_MODULE": 16, "SYS_RAWIO": 17, "SYS_PTRACE": 19, "NET_ADMIN": 12, "BPF": 39}
        assert [name for name, bit in forbidden.items() if bounding >> bit & 1] == []
