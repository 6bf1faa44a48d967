"""Accounts of a sandbox, read from files that its tenant writes."""

from pathlib import Path

import pytest

from boxkeep_guest.accounts import Account, Accounts, find_account
from boxkeep_guest.errors import Refused


def test_accounts_are_found_by_name_and_number(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("root:x:0:0:r:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/bash\nbad line\n")
    (tmp_path / "group").write_text("root:x:0:\nsudo:x:27:user,other\nbroken:x:abc:user\nuser:x:1000:\n")
    user = Account("user", 1000, 1000, [27, 1000], "/home/user")
    assert find_account("user", str(tmp_path)) == find_account("1000", str(tmp_path)) == user
    assert find_account(None, str(tmp_path)).home == "/root"
    assert find_account("4242", str(tmp_path)) == Account("4242", 4242, 4242, [4242], "/")
    for unknown in ("nobody-here", "", "-1", "99999999999"):
        with pytest.raises(Refused, match="no user"):
            find_account(unknown, str(tmp_path))


def test_root_is_there_even_in_an_empty_sandbox(tmp_path: Path) -> None:
    assert find_account(None, str(tmp_path)) == Account("root", 0, 0, [0], "/root")


def test_a_user_added_later_is_found(tmp_path: Path) -> None:
    accounts = Accounts(str(tmp_path))
    with pytest.raises(Refused):
        accounts.find("late")
    (tmp_path / "passwd").write_text("late:x:5:5::/:/bin/sh\n")
    assert accounts.find("late").uid == 5
