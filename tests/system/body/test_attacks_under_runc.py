import errno
import json
import signal
from pathlib import Path

from boxkeep_server.node.idmap import RANGE, first_uid
from tests.system.body.rooms import Room, ask, guest

PYTHON = guest().argv[:-1]
REFUSALS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EROFS, errno.ENOENT, errno.EAFNOSUPPORT, errno.EBUSY}


async def test_nothing_that_a_hostile_root_tries_gets_through(room: Room) -> None:
    machine = await room.machines.start(room.spec("runc"))
    code, said = await ask(machine.address, *PYTHON, "/.boxkeep/guest/attacks.py")
    results = json.loads(said.splitlines()[-1])
    assert code == 0
    assert len(results) > 60
    assert {name: result for name, result in results.items() if result not in REFUSALS} == {}
    # Its last try was to kill the guest.
    assert room.machines.alive(machine)


async def test_root_inside_has_few_rights_and_none_outside(room: Room) -> None:
    machine = await room.machines.start(room.spec("runc"))
    base = first_uid(machine.index)
    assert (await ask(machine.address, "cat", "/proc/self/uid_map"))[1].split() == ["0", str(base), str(RANGE)]
    _, said = await ask(machine.address, "cat", "/proc/self/status")
    status = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
    few = sum(1 << bit for bit in (0, 1, 3, 4, 5, 6, 7))
    for kind in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[kind], 16) == few
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["Seccomp"] == "2"
    outside = Path(f"/proc/{machine.pid}/status").read_text()
    assert f"Uid:\t{base}\t{base}\t{base}\t{base}" in outside


async def test_the_hosts_cgroups_disks_and_modules_are_not_seen(room: Room) -> None:
    machine = await room.machines.start(room.spec("runc"))
    _, said = await ask(machine.address, "sh", "-c", "ls -A /sys/fs /sys/kernel /sys/module /sys/devices/virtual/block")
    assert [line for line in said.split() if not line.endswith(":")] == []
    _, said = await ask(machine.address, "ls", "/sys/class/net")
    assert said.split() == ["eth0", "lo"]
    _, said = await ask(machine.address, "cat", "/proc/self/cgroup")
    assert machine.id not in said


async def test_a_call_of_another_architecture_ends_its_process(room: Room) -> None:
    machine = await room.machines.start(room.spec("runc"))
    x32_getpid = "import ctypes; ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 | 39))"
    assert await ask(machine.address, *PYTHON, "-c", x32_getpid) == (-signal.SIGSYS, "")


async def test_a_tracer_works_on_its_own_child(room: Room) -> None:
    machine = await room.machines.start(room.spec("runc"))
    script = (
        "import ctypes,os;c=ctypes.CDLL(None,use_errno=True)\n"
        "pid=os.fork()\n"
        "if not pid: c.ptrace(0,0,0,0);os.kill(os.getpid(),19);os._exit(7)\n"
        "os.waitpid(pid,0);assert c.ptrace(7,pid,0,0)==0;print(os.waitstatus_to_exitcode(os.waitpid(pid,0)[1]))"
    )
    assert await ask(machine.address, *PYTHON, "-c", script) == (0, "7\n")
