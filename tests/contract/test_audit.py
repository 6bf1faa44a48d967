"""`boxkeep audit` as the operator runs it."""

import asyncio
import json
import os
import pwd
import sys
from pathlib import Path
from typing import Any

import pytest

from boxkeep_server.model.sandboxes import NewSandbox
from tests.controls import Rig, store_at
from tests.engines import Clock, MemoryEngine


@pytest.fixture
def settings_file(store_url: str, tmp_path: Path) -> Path:
    """Settings of an instance of the test's own, whose account is the one that runs the tests."""
    file = tmp_path / "boxkeep.toml"
    account = pwd.getpwuid(os.geteuid()).pw_name
    texts = {"account": account, "lib_root": str(tmp_path / "lib"), "log_root": str(tmp_path / "log")}
    lines = [f"{name} = {json.dumps(text)}" for name, text in texts.items()]
    file.write_text("\n".join([*lines, "[control]", f"database = {json.dumps(store_url)}"]))
    return file


async def audit(file: Path, *words: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run the command: its exit code, the lines it printed, and what it said on standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "boxkeep.cli", "audit", *words),
        env={**os.environ, "BOXKEEP_CONFIG": str(file)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    code = -1 if process.returncode is None else process.returncode
    return code, [json.loads(line) for line in out.splitlines()], err.decode()


async def test_the_operator_reads_what_happened_everywhere_as_json_lines(store_url: str, settings_file: Path) -> None:
    clock = Clock()
    async with store_at(store_url) as database:
        rig = Rig(database, MemoryEngine(clock), clock)
        one, two = await rig.caller("one"), await rig.caller("two")
        mine = await rig.sandboxes.create(one, NewSandbox(isolation="runsc"))
        clock.at += 86_400_000
        theirs = await rig.sandboxes.create(two, NewSandbox(isolation="runsc"))
    code, lines, said = await audit(settings_file)
    assert (code, said) == (0, "")
    assert [(line["sandbox"], line["type"], line["actor"]) for line in lines] == [
        (mine.id, "sandbox.created", one.key_id),
        (theirs.id, "sandbox.created", two.key_id),
    ]
    assert lines[0]["organisation"] == one.organisation
    found = await audit(settings_file, "--organisation", "two", "--sandbox", theirs.id, "--since", "2027-01-16")
    assert found == (0, lines[1:], "")
    assert (await audit(settings_file, "--since", "yesterday"))[0] == 2
