"""The three runtimes under both isolations: what is in them, and that packages install into them as typed."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients import Api, Sandbox, fresh

RUNTIMES = ("bun", "python", "base")


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def box(api: Api, runtime: str, isolation: str) -> Iterator[Sandbox]:
    made = api.ready(runtime=runtime, isolation=isolation, env={"GREETING": "hello wörld", "PATHISH": "a:b"})
    yield made
    api.delete(made.id)


def only(box: Sandbox, runtime: str) -> dict[str, Any]:
    seen = box.api.get(box.id)
    if seen["runtime"] != runtime:
        raise AssertionError(seen)
    return seen


def test_a_ready_sandbox_says_what_it_is(box: Sandbox, runtime: str, isolation: str) -> None:
    seen = only(box, runtime)
    assert seen["status"] in ("ready", "active")
    assert seen["isolation"] == isolation
    assert seen["size"] == "standard"
    assert seen["region"] == "loc"
    assert seen["createdAt"] <= seen["startedAt"] <= seen["expiresAt"]
    assert seen["endedAt"] is None
    assert seen["duration"] is None
    assert seen["envNames"] == ["GREETING", "PATHISH"]
    assert "wörld" not in str(seen)
    assert seen["pauseKeeps"] in ("memory", "files")
    assert seen["diskLimit"] is True
    assert seen["terminalUrl"].startswith("ws://")
    assert seen["previewBaseUrl"].startswith("http://{port}-")
    empty = ("capabilities", "pairedBrowser", "opencode", "browserPreview", "humanHandoff")
    assert {name: seen[name] for name in empty} == dict.fromkeys(empty)


def test_a_line_of_shell_runs_in_the_workspace_as_root_with_the_sandboxs_environment(box: Sandbox) -> None:
    assert box.run('pwd; id -u; echo "$GREETING|$PATHISH"') == "/workspace\n0\nhello wörld|a:b\n"


def test_the_tools_that_people_expect_are_there(box: Sandbox) -> None:
    tools = "git curl jq rg tar gzip unzip zip wget ps less vim nano make file tree ssh rsync xz sudo python3"
    missing = box.run(f"for tool in {tools}; do command -v $tool >/dev/null || echo $tool; done")
    essential = {"git", "curl", "jq", "rg", "tar", "gzip", "unzip", "ps", "sudo"}
    assert not essential & set(missing.split()), missing


def test_a_sandbox_knows_itself_by_name(box: Sandbox) -> None:
    named = "test $(hostname) = $(cat /etc/hostname) && getent hosts $(hostname) >/dev/null && hostname"
    assert box.run(named).startswith("sandbox-")
    assert box.run("sudo -n id -un 2>&1; sudo -n -u user id -un 2>&1") == "root\nuser\n"


def test_the_images_environment_reaches_every_process_and_the_users_own_wins(box: Sandbox) -> None:
    bundle = "/etc/ssl/certs/ca-certificates.crt"
    assert box.run("echo $SSL_CERT_FILE $PIP_CERT $NODE_EXTRA_CA_CERTS") == f"{bundle} {bundle} {bundle}\n"
    own = box.exec("echo $SSL_CERT_FILE", env={"SSL_CERT_FILE": "/mine"})
    assert own["stdout"] == "/mine\n"


def test_symlinks_are_listed_copied_and_synchronised(box: Sandbox) -> None:
    line = """set -e; rm -rf /root/links; mkdir /root/links; cd /root/links; ln -s /etc/hostname a; echo text > b
        ls -l . /bin >/dev/null; cp -a . /root/links2; rsync -a ./ /root/links3/; mv a c
        tar -c --xattrs . | tar -t >/dev/null
        git init -q . 2>/dev/null; git add .; git -c user.email=a@b -c user.name=a commit -qm x
        git clone -q . /root/links4
        readlink /root/links2/a /root/links3/a /root/links4/c; rm -rf /root/links*"""
    assert box.run(line) == "/etc/hostname\n" * 3


def test_git_commits_and_jq_and_rg_read_it(box: Sandbox) -> None:
    line = """
    rm -rf r && git init -q r && cd r && echo '{"a": [1, 2, 40]}' > f.json && git add . &&
    git -c user.name=n -c user.email=n@example.org commit -qm first && git log --format=%s &&
    jq '.a | add' f.json && rg -c 40
    """
    assert box.run(line) == "first\n43\nf.json:1\n"


def test_code_runs_in_the_runtimes_language(box: Sandbox, runtime: str) -> None:
    sources = {
        "bun": "const x: number = await Promise.resolve(6); console.log(x * 7, process.env.GREETING)",
        "python": "import os\nprint(6 * 7, os.environ['GREETING'])",
        "base": 'echo $((6 * 7)) "$GREETING"',
    }
    answer = box.code(sources[runtime])
    assert (answer["outcome"], answer["exitCode"]) == ("exited", 0), answer
    assert answer["stdout"] == "42 hello wörld\n"


def test_code_leaves_no_file_behind(box: Sandbox, runtime: str) -> None:
    listing = "find / -xdev -newer /tmp/mark -type f ! -path '/proc/*' ! -path '/sys/*' ! -path '/run/*' -name '*code*'"
    box.run("touch /tmp/mark")
    box.code({"bun": "console.log(1)", "python": "print(1)", "base": "echo 1"}[runtime])
    assert box.run(listing) == ""
    assert box.run("ls -A /workspace | grep -v '^r$' || true") == ""


def test_code_that_fails_says_so(box: Sandbox, runtime: str) -> None:
    sources = {"bun": "throw new Error('broken bun')", "python": "raise ValueError('broken python')", "base": "nope"}
    answer = box.code(sources[runtime])
    assert answer["outcome"] == "exited"
    assert answer["exitCode"] != 0
    assert {"bun": "broken bun", "python": "broken python", "base": "nope"}[runtime] in answer["stderr"]


def test_the_runtimes_package_manager_installs_into_the_running_sandbox(box: Sandbox, runtime: str) -> None:
    lines = {
        "bun": "mkdir -p /workspace/p && cd /workspace/p && bun init -y >/dev/null 2>&1; bun add is-odd >&2 && "
        "bun -e 'console.log(require(\"is-odd\")(3))'",
        "python": "pip install iniconfig >&2 && python -c 'import iniconfig; print(\"true\")'",
        "base": "apt-get update -qq >&2 && apt-get install -y -qq hello >&2 && hello -g true",
    }
    answer = box.exec(lines[runtime])
    assert (answer["exitCode"], answer["stdout"].strip()) == (0, "true"), answer
    box.exec("rm -rf /workspace/p")


def test_python_makes_a_virtual_environment_and_installs_into_it(api: Api, box: Sandbox, runtime: str) -> None:
    python = "python" if runtime == "python" else "python3"
    if runtime != "python":
        assert box.exec(f"command -v {python}")["exitCode"] in (0, 1)
        return
    line = f"{python} -m venv /tmp/v && /tmp/v/bin/pip install iniconfig >&2 && /tmp/v/bin/python -m pip list"
    assert "iniconfig" in box.run(line)


@pytest.mark.parametrize("runtime_name", ["bun", "python"])
def test_apt_get_installs_in_every_runtime(api: Api, runtime_name: str) -> None:
    with fresh(api, runtime=runtime_name, isolation="runc") as other:
        answer = other.exec("apt-get update -qq >&2 && apt-get install -y -qq hello >&2 && hello -g true")
        assert (answer["exitCode"], answer["stdout"]) == (0, "true\n"), answer


def test_two_sandboxes_of_one_image_do_not_see_each_others_files(api: Api, box: Sandbox, runtime: str) -> None:
    box.run("echo mine > /etc/only-here")
    with fresh(api, runtime=runtime, isolation=only(box, runtime)["isolation"]) as other:
        assert other.exec("cat /etc/only-here")["exitCode"] == 1
