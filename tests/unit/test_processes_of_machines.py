import asyncio
import os
import subprocess
import sys
from pathlib import Path

from boxkeep_server.node import processes

REAPER = """
import subprocess, sys, time
from pathlib import Path
from boxkeep_server.node import processes, syscalls
syscalls.become_subreaper()
subprocess.run(["sh", "-c", "setsid true & setsid true & exit"], check=True)
own = subprocess.Popen(["true"])
def children(): return {int(pid) for pid in Path("/proc/thread-self/children").read_text().split()}
deadline = time.monotonic() + 10
while children() != {own.pid} and time.monotonic() < deadline:
    processes.reap_orphans()
    time.sleep(0.01)
print(children() == {own.pid}, own.wait())
"""


def test_a_process_is_known_by_when_it_began() -> None:
    started = processes.start_time(os.getpid())
    assert started is not None
    assert processes.is_alive(os.getpid(), started)
    assert not processes.is_alive(os.getpid(), started + 1)


async def test_the_end_of_a_process_is_waited_for_and_only_its_own() -> None:
    child = subprocess.Popen(["sleep", "600"])
    started = processes.start_time(child.pid)
    assert started is not None
    await processes.ended(child.pid, started + 1)
    waiting = asyncio.create_task(processes.ended(child.pid, started))
    processes.kill(child.pid, started + 1)
    assert child.poll() is None
    processes.kill(child.pid, started)
    async with asyncio.timeout(10):
        await waiting
    assert not processes.is_alive(child.pid, started)
    assert child.wait() == -9
    await processes.ended(child.pid, started)
    processes.kill(child.pid, started)


def test_only_commands_of_the_runtimes_are_at_work_on_a_machine() -> None:
    machine = "w" * 32
    talking = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    runtime = subprocess.Popen(["sh", "-c", "echo up; read line", "/usr/sbin/runc", machine], **talking)
    editor = subprocess.Popen(["sh", "-c", "echo up; read line", "less", machine], **talking)
    try:
        for process in (runtime, editor):
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
        assert processes.at_work_on(machine, {"/usr/sbin/runc"}) == [runtime.pid]
        assert processes.at_work_on("v" * 32, {"/usr/sbin/runc"}) == []
    finally:
        for process in (runtime, editor):
            process.kill()
            process.communicate()


def test_orphans_of_other_sessions_are_collected_and_own_children_left_alone() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", REAPER], check=True, capture_output=True, text=True, env=environment)
    assert ran.stdout == "True 0\n"


def test_slack_is_given_to_every_thread_and_nothing_happens_for_one_that_is_gone() -> None:
    child = subprocess.Popen(["sleep", "600"])
    try:
        processes.allow_slack(child.pid, 7_000_000)
        assert Path(f"/proc/{child.pid}/timerslack_ns").read_text() == "7000000\n"
    finally:
        child.kill()
        child.wait()
    processes.allow_slack(child.pid, 1)


def test_who_is_put_first_stays_so_in_every_thread_and_what_it_starts_is_ordinary() -> None:
    program = """
import os, subprocess, sys, threading
told = threading.Event()
def look():
    told.wait()
    print(os.getpriority(os.PRIO_PROCESS, 0), flush=True)
thread = threading.Thread(target=look)
thread.start()
print("up", flush=True)
sys.stdin.readline()
told.set()
thread.join()
print(os.getpriority(os.PRIO_PROCESS, 0), flush=True)
subprocess.run([sys.executable, "-c", "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"])
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={}
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    processes.put_first(child.pid)
    told, _ = child.communicate("\n")
    assert told.split() == ["-20", "-20", "0"]
    processes.put_first(child.pid)
