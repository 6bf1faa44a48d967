import resource
from pathlib import Path

import pytest

from boxkeep_server.node import doctor
from boxkeep_server.node.doctor import Finding, Verdict
from boxkeep_server.node.mirrors import Mirror
from boxkeep_server.settings import Settings


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
        (doctor.judge_connections(262144), "ok"),
        (doctor.judge_connections(65536), "lost"),
        (doctor.judge_connections(None), "ok"),
        (doctor.judge_clock(0.0), "fatal"),
        (doctor.judge_clock(1_800_000_000.0), "ok"),
        (doctor.judge_sources([Mirror("packages.local", 80)]), "ok"),
        (doctor.judge_sources([]), "fatal"),
        (doctor.judge_subnet("10.213.0.0/16", "up", [("10.213.0.0/16", "up")]), "ok"),
        (doctor.judge_subnet("10.213.0.0/16", "up", [("10.213.4.0/24", "eth0")]), "fatal"),
        (doctor.judge_subnet("10.213.0.0/16", "up", [("10.0.0.0/8", "vpn0")]), "fatal"),
        (doctor.judge_subnet("10.213.0.0/30", "up", []), "fatal"),
        (doctor.judge_subnet("no network", "up", []), "fatal"),
    ],
)
def test_each_finding_is_judged_and_says_how_to_mend_it(finding: Finding, verdict: Verdict) -> None:
    assert finding.verdict == verdict
    assert bool(finding.mend) == (verdict != "ok")


def test_a_host_without_resolvers_loses_names_alone(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("search local\n")
    assert doctor.judge_resolver(tmp_path / "resolv.conf").verdict == "lost"
    assert doctor.judge_resolver(tmp_path / "none").verdict == "lost"
    (tmp_path / "resolv.conf").write_text("nameserver\t192.0.2.53\n")
    assert doctor.judge_resolver(tmp_path / "resolv.conf").seen == "192.0.2.53"


def test_findings_are_a_line_each_with_the_way_to_mend_below() -> None:
    shown = doctor.render(
        [Finding("root", "ok", "yes"), Finding("nft", "fatal", "not installed", "apt-get install it")]
    )
    assert [line.split()[0] for line in shown.splitlines()] == ["ok", "FATAL", "→"]


def test_this_host_is_examined_without_a_failure(tmp_path: Path) -> None:
    findings = doctor.examine(Settings(lib_root=tmp_path / "not" / "there"))
    assert len({one.subject for one in findings}) == len(findings) >= 18
