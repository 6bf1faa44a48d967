import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from boxkeep_server.model.node_api import LeakCount, Leaks
from boxkeep_server.node.leaks import _both, _working, unowned

MINE, GONE = "a" * 32, "b" * 32
THINGS = st.dictionaries(st.text(max_size=5), st.sampled_from([MINE, GONE, None]))


@given(st.dictionaries(st.sampled_from(["netns", "veths", "mounts"]), THINGS))
def test_what_is_counted_is_what_has_no_owner(seen: dict[str, dict[str, str | None]]) -> None:
    counted = {one.kind: set(one.items) for one in unowned(seen, {MINE}).leaks}
    assert counted == {kind: {name for name, of in things.items() if of != MINE} for kind, things in seen.items()}


def test_kinds_without_leaks_are_counted_too() -> None:
    assert unowned({"netns": {}}, set()) == Leaks(leaks=(LeakCount(kind="netns", items=()),))


def test_what_only_one_look_has_seen_is_not_counted() -> None:
    first = unowned({"netns": {GONE: GONE, "x": None}}, set())
    second = unowned({"netns": {GONE: GONE, "y": None}}, set())
    assert _both(first, second) == unowned({"netns": {GONE: GONE}}, set())


def test_a_runtimes_process_is_told_by_the_instances_directory_and_a_machine(tmp_path: Path) -> None:
    for pid, words in {
        "11": ["runsc", f"--root={tmp_path}/run/runsc", "boot", GONE],
        "12": ["runsc", "--root=/elsewhere/runsc", "boot", GONE],
        "13": ["boxkeep", "node", f"{tmp_path}/run/node.sock"],
        "self": ["runsc", f"{tmp_path}/run/", GONE],
    }.items():
        (tmp_path / "proc" / pid).mkdir(parents=True)
        (tmp_path / "proc" / pid / "cmdline").write_text("\0".join(words))
    (tmp_path / "proc" / "14").mkdir()
    assert _working(f"{tmp_path}/run/", tmp_path / "proc") == {"11": GONE}
    assert sys.executable not in _working(f"{tmp_path}/run/")
