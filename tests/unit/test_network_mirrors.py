from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from boxkeep_server.node.mirrors import Mirror, configured, named_in, resolve, to_open


def test_mirrors_and_proxies_are_found_where_a_host_is_configured(tmp_path: Path) -> None:
    etc, home = tmp_path / "etc", tmp_path / "home"
    for name, text in {
        "etc/apt/sources.list": "deb [trusted=yes] http://deb.local/debian bookworm main\n"
        "# deb http://old.local/debian x y\n",
        "etc/apt/sources.list.d/a.sources": "Types: deb\nURIs: https://sec.local:8443/debian-security\n",
        "etc/apt/apt.conf.d/01proxy": 'Acquire::http::Proxy "http://user:secret@10.0.0.9:3142/";\n',
        "etc/pip.conf": "[global]\nindex-url = https://pypi.local/simple\nextra-index-url = file:///opt/simple\n",
        "home/.npmrc": "registry=http://npm.local:4873/\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    environment = {"https_proxy": "http://proxy.local:3128", "HOME_PAGE": "http://not.local"}
    assert configured(etc, home, environment) == [
        Mirror("10.0.0.9", 3142),
        Mirror("deb.local", 80),
        Mirror("npm.local", 4873),
        Mirror("proxy.local", 3128),
        Mirror("pypi.local", 443),
        Mirror("sec.local", 8443),
    ]


def test_nothing_is_found_where_nothing_is_configured(tmp_path: Path) -> None:
    assert configured(tmp_path, tmp_path, {}) == []


def test_what_sandboxes_reach_anyway_is_not_opened_nor_what_nobody_may_reach() -> None:
    names = {
        "private": ["10.0.0.9", "203.0.113.9"],
        "attached": ["198.51.100.80"],
        "metadata": ["169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192"],
        "loopback": ["127.0.0.1"],
        "public": ["8.8.8.8"],
        "unknown": [],
    }
    mirrors = [Mirror(name, 80) for name in names]
    assert to_open(mirrors, ["198.51.100.0/24"], names.__getitem__) == [("10.0.0.9", 80), ("198.51.100.80", 80)]


@given(st.text())
def test_any_text_is_read_for_urls(text: str) -> None:
    assert all((mirror.host and 0 < mirror.port < 65536) or mirror.port == 0 for mirror in named_in("http://" + text))


def test_a_name_that_cannot_be_one_has_no_address() -> None:
    assert resolve("a" * 300 + ".invalid") == []
    assert resolve("10.1.2.3") == ["10.1.2.3"]
