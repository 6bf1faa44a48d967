import json
import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EADDRINUSE, EADDRNOTAVAIL
from pathlib import Path

import pytest

from boxkeep_server.node import before_install, doctor
from boxkeep_server.node import doctor_disks as disks
from boxkeep_server.node import doctor_network as network
from boxkeep_server.node import doctor_ports as ports
from boxkeep_server.node.cgroups import Layout
from boxkeep_server.node.doctor import Wanted
from boxkeep_server.node.findings import Finding, Verdict, render
from boxkeep_server.node.mirrors import Mirror
from tests.ingredients import TREE

OURS = ports.Holder(7, "boxkeep", True)
THEIRS = ports.Holder(8, "nginx", False)


@pytest.mark.parametrize(
    ("finding", "verdict"),
    [
        (doctor.judge_root(0), "ok"),
        (doctor.judge_root(1000), "fatal"),
        (doctor.judge_kernel("6.18.0-1-amd64"), "ok"),
        (doctor.judge_kernel("5.19"), "ok"),
        (doctor.judge_kernel("5.4.0"), "lost"),
        (doctor.judge_program("nft", "nftables", None), "fatal"),
        (disks.judge_loop(False), "fatal"),
        (doctor.judge_namespaces(True, 100), "ok"),
        (doctor.judge_namespaces(True, None), "ok"),
        (doctor.judge_namespaces(True, 0), "lost"),
        (doctor.judge_namespaces(False, 100), "fatal"),
        (disks.judge_free(14, False), "fatal"),
        (disks.judge_free(14, True), "ok"),
        (disks.judge_free(15, False), "ok"),
        (disks.judge_file_system("overlay", "nodev\toverlay\n"), "ok"),
        (disks.judge_file_system("nosuchfs", "nodev\toverlay\n"), "fatal"),
        (disks.judge_directory("Invalid argument", False), "fatal"),
        (disks.judge_directory(None, False), "lost"),
        (disks.judge_directory(None, True), "lost"),
        (disks.judge_shifted("Invalid argument"), "lost"),
        (disks.judge_shifted(None), "ok"),
        (ports.judge_port("API port", 7070, "control.port", None, []), "ok"),
        (ports.judge_port("API port", 7070, "control.port", EADDRINUSE, [OURS]), "ok"),
        (ports.judge_port("API port", 7070, "control.port", EADDRINUSE, [OURS, THEIRS]), "fatal"),
        (ports.judge_port("API port", 7070, "control.port", EADDRINUSE, []), "fatal"),
        (ports.judge_port("API port", 7070, "control.port", EADDRNOTAVAIL, []), "fatal"),
        (doctor.judge_pids(32768), "lost"),
        (doctor.judge_files(20000), "lost"),
        (doctor.judge_files(resource.RLIM_INFINITY), "ok"),
        (network.judge_connections(262144), "ok"),
        (network.judge_connections(65536), "lost"),
        (network.judge_connections(None), "ok"),
        (doctor.judge_clock(0.0, True), "fatal"),
        (doctor.judge_clock(1_800_000_000.0, True), "ok"),
        (doctor.judge_clock(1_800_000_000.0, False), "lost"),
        (doctor.judge_init(True, True), "ok"),
        (doctor.judge_init(False, True), "lost"),
        (doctor.judge_init(False, False), "lost"),
        (doctor.judge_inner_users(None, None), "ok"),
        (doctor.judge_inner_users(0, 1), "ok"),
        (doctor.judge_inner_users(1, 1), "lost"),
        (doctor.judge_inner_users(None, 0), "lost"),
        (doctor.judge_sources([Mirror("packages.local", 80)]), "ok"),
        (doctor.judge_sources([]), "fatal"),
        (network.judge_subnet("10.213.0.0/16", "up", [("10.213.0.0/16", "up")]), "ok"),
        (network.judge_subnet("10.213.0.0/16", "up", [("10.213.4.0/24", "eth0")]), "fatal"),
        (network.judge_subnet("10.213.0.0/16", "up", [("10.0.0.0/8", "vpn0")]), "fatal"),
        (network.judge_subnet("10.213.0.0/16", "up", [("10.213.0.2", "resolv.conf")]), "fatal"),
        (network.judge_subnet("10.213.0.0/16", "up", [("10.212.0.1", "eth0")]), "ok"),
        (network.judge_subnet("10.213.0.0/30", "up", []), "fatal"),
        (network.judge_subnet("no network", "up", []), "fatal"),
    ],
)
def test_each_finding_is_judged_and_says_how_to_mend_it(finding: Finding, verdict: Verdict) -> None:
    assert finding.verdict == verdict
    assert bool(finding.mend) == (verdict != "ok")


def test_a_host_without_resolvers_loses_names_alone(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("search local\n")
    assert network.judge_resolver(tmp_path / "resolv.conf").verdict == "lost"
    assert network.judge_resolver(tmp_path / "none").verdict == "lost"
    (tmp_path / "resolv.conf").write_text("nameserver\t192.0.2.53\n")
    assert network.judge_resolver(tmp_path / "resolv.conf").seen == "192.0.2.53"


def test_findings_are_a_line_each_with_the_way_to_mend_below() -> None:
    shown = render([Finding("root", "ok", "yes"), Finding("nft", "fatal", "not installed", "apt-get install it")])
    assert [line.split()[0] for line in shown.splitlines()] == ["ok", "FATAL", "→"]


def test_this_host_is_examined_without_a_failure(tmp_path: Path) -> None:
    findings = doctor.examine(Wanted("some", "10.250.0.0/16", tmp_path / "not" / "there"))
    assert len({one.subject for one in findings}) == len(findings) >= 24


def test_a_proc_that_is_covered_in_part_leaves_runsc_alone() -> None:
    proc = "22 1 0:20 / /proc rw - proc proc rw\n"
    tame = "23 22 0:21 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw\n"
    lxcfs = "24 22 0:22 /proc/meminfo /proc/meminfo rw - fuse.lxcfs lxcfs rw\n"
    assert doctor.judge_proc(proc + tame).verdict == "ok"
    seen = doctor.judge_proc(proc + tame + lxcfs)
    assert (seen.verdict, seen.seen) == ("lost", "/proc/meminfo is mounted over")
    assert doctor.judge_proc(proc + lxcfs + "25 1 0:20 / /srv/proc rw - proc proc rw\n").verdict == "ok"


def test_cgroups_without_controllers_or_rights_are_fatal(tmp_path: Path) -> None:
    controllers = tmp_path / "cgroup.controllers"
    controllers.write_text("cpuset cpu io memory pids\n")
    assert doctor.judge_cgroups(Layout({}, tmp_path), writable=True).seen == "version 2"
    assert doctor.judge_cgroups(Layout({}, tmp_path), writable=False).fatal
    controllers.write_text("cpu pids\n")
    assert doctor.judge_cgroups(Layout({}, tmp_path), writable=True).seen == "version 2, without memory"
    assert doctor.judge_cgroups(Layout({}, None), writable=True).fatal
    v1 = dict.fromkeys(("memory", "cpu", "pids"), tmp_path)
    assert doctor.judge_cgroups(Layout(v1, None), writable=True).verdict == "ok"


@pytest.mark.parametrize(
    ("runsc", "runc", "verdicts"),
    [
        ("release-20240729.0", "1.1.5+ds1", ["ok", "ok"]),
        (None, "1.1.5+ds1", ["lost", "ok"]),
        ("release-20221026.0", "1.2", ["lost", "ok"]),
        ("release-20240729.0", "1.0.0~rc93", ["ok", "lost"]),
        ("0.0~20221026.0", None, ["lost", "lost"]),
    ],
)
def test_runtimes_that_are_too_old_are_none(runsc: str | None, runc: str | None, verdicts: list[Verdict]) -> None:
    assert [one.verdict for one in doctor.judge_runtimes({"runsc": runsc, "runc": runc})] == verdicts


KERNEL, OLD_KERNEL = doctor.judge_kernel("6.1"), doctor.judge_kernel("5.15.0-1")
NO_RUNSC, OLD_RUNC = doctor.judge_runtimes({"runsc": None, "runc": "1.0"})
RUNSC, RUNC = doctor.judge_runtimes({"runsc": "release-20240729.0", "runc": "1.1.5"})


@pytest.mark.parametrize(
    ("findings", "allowed", "seen"),
    [
        ([KERNEL, RUNSC, RUNC], ("runsc", "runc"), "runsc, runc"),
        ([KERNEL, NO_RUNSC, RUNC], ("runsc", "runc"), "runc"),
        ([OLD_KERNEL, RUNSC, RUNC], ("runsc", "runc"), "runsc"),
        ([OLD_KERNEL, NO_RUNSC, RUNC], ("runsc", "runc"), None),
        ([OLD_KERNEL, RUNC], ("runc",), None),
        ([KERNEL, NO_RUNSC, OLD_RUNC], ("runsc", "runc"), None),
        ([KERNEL, doctor.judge_namespaces(True, 0), NO_RUNSC, RUNC], ("runsc", "runc"), None),
        ([KERNEL, disks.judge_shifted("Invalid argument"), NO_RUNSC, RUNC], ("runsc", "runc"), None),
    ],
)
def test_a_host_on_which_no_isolation_can_run_is_told_so_once(
    findings: list[Finding], allowed: tuple[str, ...], seen: str | None
) -> None:
    judged = doctor.judge_isolations(allowed, findings)
    assert not any(one.fatal for one in findings)
    assert judged.fatal == (seen is None)
    if seen is not None:
        assert judged.seen == seen


def test_an_old_kernel_without_runsc_is_fatal_in_one_sentence() -> None:
    judged = doctor.judge_isolations(("runsc", "runc"), [OLD_KERNEL, NO_RUNSC, RUNC])
    assert judged.mend == "Let this host have a version of 2024 or later for runsc, or Linux 5.19 or newer for runc."


def test_where_a_pool_cannot_be_the_directory_is_named_with_what_is_lost_by_it() -> None:
    for finding in (disks.judge_loop(False), disks.judge_file_system("nosuchfs", "", disks.INSTEAD)):
        assert "DISKS=directory" in finding.mend
        assert "no sandbox's disk has a limit" in finding.mend


def test_a_directory_is_tried_and_nothing_of_the_trial_is_left(tmp_path: Path) -> None:
    findings = disks.examine("directory", tmp_path / "not" / "there")
    assert {one.subject for one in findings} == {"directory", "shifted disks", "free disk"}
    assert not any(one.fatal for one in findings)
    assert not list(tmp_path.iterdir())


def test_where_no_overlay_lies_a_directory_is_fatal() -> None:
    (judged, shifted, _) = disks.examine("directory", Path("/proc"))
    assert judged.fatal
    assert shifted.verdict == "lost"


@contextmanager
def listening(*words: str, **environment: str) -> Iterator[tuple[int, int]]:
    """A process that listens, with its number and that of its port."""
    program = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True);"
    command = [sys.executable, "-c", f"{program} sys.stdin.read()", *words]
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())


def test_who_has_a_port_is_named_unless_it_is_the_installations_own(tmp_path: Path) -> None:
    config = tmp_path / "some.toml"
    config.write_text('instance = "some"\n')
    with listening("boxkeep.cli", "serve", BOXKEEP_CONFIG=str(config)) as (_, own), listening() as (pid, other):
        wanted = ports.Ports("127.0.0.1", own, other)
        ours, theirs = ports.examine(wanted, "some")
        assert (ours.verdict, ours.seen) == ("ok", f"{own}, this installation's own")
        assert theirs.fatal
        assert re.fullmatch(rf"{other} is taken by python\S* \(process {pid}\)", theirs.seen)
        assert "PORT=" in theirs.mend
        assert ports.examine(wanted, "another")[0].fatal
        assert ports.examine(ports.Ports("127.0.0.2", own, other), "some")[0].seen == f"{own}, free"
        assert ports.examine(ports.Ports("0.0.0.0", own, other), "some")[1].seen == theirs.seen


def test_a_socket_for_all_addresses_keeps_others_from_one() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        (holder,) = ports.holders("127.0.0.1", port, "some")
        assert holder.pid == os.getpid()
        assert ports.fault("127.0.0.1", port) == EADDRINUSE


def test_an_address_of_another_host_cannot_be_listened_on() -> None:
    (judged, _) = ports.examine(ports.Ports("192.0.2.1", 7070, 7072), "some")
    assert judged.fatal
    assert "control.listen" in judged.mend


def test_rules_of_others_are_named_and_those_that_nobody_may_change_told() -> None:
    chain = {"family": "ip", "table": "filter", "name": "FORWARD", "type": "filter", "hook": "forward"}
    docker = {"family": "ip", "table": "filter", "name": "DOCKER"}
    listed = json.dumps({"nftables": [{"chain": {**chain, "policy": "drop"}}, {"chain": docker}]})
    assert network.judge_firewall("{}", "{}").seen == "nothing drops packets"
    seen = network.judge_firewall('{"nftables": [{"table": {"family": "ip", "name": "filter"}}]}', listed)
    assert (seen.verdict, seen.seen) == ("ok", "docker, ip filter FORWARD drops")
    for table, verdict in (("firewalld", "ok"), ("theirs", "lost")):
        owned = {"nftables": [{"table": {"family": "inet", "name": table, "flags": ["owner"]}}]}
        forward = {"nftables": [{"chain": {**chain, "family": "inet", "table": table, "name": "filter_FORWARD"}}]}
        seen = network.judge_firewall(json.dumps(owned), json.dumps(forward))
        assert (seen.verdict, seen.seen) == (verdict, "firewalld")


def test_before_an_installation_the_systems_own_python_tells_what_is_fatal(tmp_path: Path) -> None:
    settings = tmp_path / "main.toml"
    settings.write_text(f'lib_root = "{tmp_path}"\n[node]\nsubnet = "10.250.0.0/30"\n')
    ask = ["/usr/bin/python3", "-m", "boxkeep_server.node.before_install"]
    told = {"PYTHONPATH": str(TREE / "server"), "PATH": os.environ["PATH"]}
    seen = subprocess.run(
        [*ask, settings, "some", "10.250.0.0/16", "7070", "pool"], env=told, capture_output=True, text=True, check=False
    )
    assert (seen.returncode, seen.stderr) == (1, "")
    assert re.search(r"^FATAL  subnet +10\.250\.0\.0/30$", seen.stdout, re.MULTILINE)
    assert "ok   " not in seen.stdout


def test_settings_that_are_no_toml_are_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "main.toml").write_text("subnet = ")
    assert before_install.main(tmp_path / "main.toml", "some", "10.250.0.0/16", 7070, "pool") == 2
    assert "main.toml is not TOML" in capsys.readouterr().err


def test_settings_that_are_not_there_yet_are_those_of_the_command_line() -> None:
    lib = Path("/var/lib/boxkeep/some")
    asked = before_install.wanted({}, "some", "10.250.0.0/16", 8080, "directory")
    assert asked == Wanted("some", "10.250.0.0/16", lib, disks="directory", ports=ports.Ports("127.0.0.1", 8080, 8082))
    written = {
        "control": {"listen": "0.0.0.0", "port": 9090, "preview_port": "none"},
        "node": {"subnet": "10.9.0.0/16"},
    }
    asked = before_install.wanted(written, "some", "10.250.0.0/16", 8080, "directory")
    assert asked == Wanted("some", "10.9.0.0/16", lib, disks="pool", ports=ports.Ports("0.0.0.0", 9090, 7072))
