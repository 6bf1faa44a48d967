import json
import os
import re
import resource
import subprocess
from pathlib import Path

import pytest

from boxkeep_server.node import before_install, doctor
from boxkeep_server.node import doctor_network as network
from boxkeep_server.node.cgroups import Layout
from boxkeep_server.node.doctor import Wanted
from boxkeep_server.node.findings import Finding, Verdict, render
from boxkeep_server.node.mirrors import Mirror
from tests.ingredients import TREE


@pytest.mark.parametrize(
    ("finding", "verdict"),
    [
        (doctor.judge_root(0), "ok"),
        (doctor.judge_root(1000), "fatal"),
        (doctor.judge_kernel("6.18.0-1-amd64"), "ok"),
        (doctor.judge_kernel("5.19"), "ok"),
        (doctor.judge_kernel("5.4.0"), "lost"),
        (doctor.judge_program("nft", "nftables", None), "fatal"),
        (doctor.judge_loop(False), "fatal"),
        (doctor.judge_namespaces(True, 100), "ok"),
        (doctor.judge_namespaces(True, None), "ok"),
        (doctor.judge_namespaces(True, 0), "lost"),
        (doctor.judge_namespaces(False, 100), "fatal"),
        (doctor.judge_disk(14, False), "fatal"),
        (doctor.judge_disk(14, True), "ok"),
        (doctor.judge_disk(15, False), "ok"),
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
        ("0.0~20221026.0", None, ["fatal", "fatal"]),
    ],
)
def test_runtimes_that_are_too_old_are_none(runsc: str | None, runc: str | None, verdicts: list[Verdict]) -> None:
    assert [one.verdict for one in doctor.judge_runtimes({"runsc": runsc, "runc": runc})] == verdicts


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
        [*ask, settings, "some", "10.250.0.0/16"], env=told, capture_output=True, text=True, check=False
    )
    assert (seen.returncode, seen.stderr) == (1, "")
    assert re.search(r"^FATAL  subnet +10\.250\.0\.0/30$", seen.stdout, re.MULTILINE)
    assert "ok   " not in seen.stdout


def test_settings_that_are_no_toml_are_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "main.toml").write_text("subnet = ")
    assert before_install.main(tmp_path / "main.toml", "some", "10.250.0.0/16") == 2
    assert "main.toml is not TOML" in capsys.readouterr().err


def test_settings_that_are_not_there_yet_are_those_of_the_command_line() -> None:
    assert before_install.wanted({}, "some", "10.250.0.0/16") == Wanted(
        "some", "10.250.0.0/16", Path("/var/lib/boxkeep/some")
    )
