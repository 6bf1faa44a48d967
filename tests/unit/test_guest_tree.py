"""Who belongs to whom: trees of processes, and the largest of them."""

import os

from boxkeep_guest import crowding
from boxkeep_guest.memory import figures, kill_count, margin, next_look
from boxkeep_guest.tree import Seen, largest, look, members, owners

MIB = 1024 * 1024


def in_bytes(one: Seen) -> int:
    return one.rss


def seen(pid: int, parent: int, mark: int = 0, session: int = 0, rss: int = 1) -> Seen:
    return Seen(pid, parent, session or pid, start=pid * 10, zombie=False, rss=rss, mark=mark)


def test_members_are_found_by_mark_by_parent_by_session_and_by_memory() -> None:
    all_seen = [
        seen(10, 1, mark=7),
        seen(11, 10),  # a child that changed its mark
        seen(12, 1, mark=7),  # a daemon that fled to PID 1
        seen(13, 1, session=10),  # of the root's session
        seen(14, 1),  # known from before
        seen(15, 14),
        seen(20, 1, mark=8),  # somebody else's
        seen(21, 20),
    ]
    assert {one.pid for one in members(all_seen, 10, 7, {(14, 140)})} == {10, 11, 12, 13, 14, 15}
    assert {one.pid for one in members(all_seen, 10, 7, {(14, 999)})} == {10, 11, 12, 13}


def test_a_root_that_was_reaped_lends_its_pid_to_nobody() -> None:
    assert members([seen(10, 1, mark=8)], -1, 7, set()) == []


def test_this_process_is_seen_as_it_is() -> None:
    found = look(os.getpid(), b"Max open files")
    assert found is not None
    assert (found.parent, found.session, found.zombie) == (os.getppid(), os.getsid(0), False)
    assert found.rss > MIB
    assert found.mark > 0
    assert look(2**22 + 1, b"Max open files") is None


def test_the_largest_tree_counts_all_that_descends_from_it() -> None:
    all_seen = [
        seen(10, 1, mark=100, rss=5 * MIB),
        seen(11, 10, mark=0, rss=30 * MIB),
        seen(12, 11, mark=0, rss=30 * MIB),
        seen(20, 1, mark=101, rss=50 * MIB),
        seen(30, 1, mark=0, rss=1 * MIB),
    ]
    assert owners(all_seen, range(100, 102)) == {10: 100, 11: 100, 12: 100, 20: 101, 30: 0}
    assert largest(all_seen, range(100, 102), True, in_bytes) == (100, 65 * MIB, 11)
    assert largest([], range(1), True, in_bytes) is None


def test_strangers_count_only_where_the_guest_is_alone() -> None:
    all_seen = [seen(10, 1, mark=100, rss=5 * MIB), seen(30, 1, mark=0, rss=500 * MIB), seen(31, 30, rss=MIB)]
    assert largest(all_seen, range(100, 101), False, in_bytes) == (100, 5 * MIB, 10)
    assert largest(all_seen, range(100, 101), True, in_bytes) == (0, 501 * MIB, 30)
    assert largest(all_seen[1:], range(100, 101), False, in_bytes) is None


def test_a_loop_of_parents_ends() -> None:
    assert owners([seen(10, 11), seen(11, 10)], range(5, 6)) == {10: 0, 11: 0}


def test_the_watcher_looks_again_before_what_is_free_could_be_filled() -> None:
    limit = 4096 * MIB
    assert next_look(0, limit) == 1.0
    assert next_look(limit, limit) == 0.02
    used = limit - margin(limit) - 512 * MIB
    assert next_look(used, limit) <= 0.25


def test_figures_of_the_kernel_are_read_by_name() -> None:
    assert figures("MemTotal:   10 kB\nAnonPages: 3 kB\nHugePages_Total: x\n\n") == {
        "MemTotal": 10240,
        "AnonPages": 3072,
    }
    assert kill_count(["low 0\noom 3\noom_kill 2\n", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n", ""]) == 7


def test_the_tree_with_the_most_processes_is_the_largest_where_they_are_counted() -> None:
    all_seen = [seen(10, 1, mark=100, rss=500 * MIB), seen(20, 1, mark=101), seen(21, 20), seen(22, 21)]
    found = largest(all_seen, range(100, 102), True, lambda one: not one.zombie)
    assert found is not None
    assert found[:2] == (101, 3)


def test_the_more_processes_the_sooner_they_are_counted_again() -> None:
    assert crowding.next_look(10, 4096) == 1.0
    assert crowding.next_look(3596, 4096) == 0.25
    assert crowding.next_look(5000, 4096) == 0.1
    assert crowding.count() > 3
