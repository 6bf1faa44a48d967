"""Which URLs are of proxies, and what of them is shown."""

import pytest

from boxkeep_server.model.proxies import BadProxy, read_proxy


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://proxy.example.com:3128", "http://proxy.example.com:3128"),
        ("http://proxy.example.com:3128/", "http://proxy.example.com:3128"),
        ("https://proxy.example.com:443", "https://proxy.example.com:443"),
        ("socks4://192.0.2.7:1080", "socks4://192.0.2.7:1080"),
        ("socks5://[2001:db8::7]:1080", "socks5://[2001:db8::7]:1080"),
    ],
)
def test_a_proxy_without_a_password_is_shown_as_it_is_and_keeps_no_secret(url: str, shown: str) -> None:
    proxy = read_proxy(url)
    assert (proxy.shown, proxy.secret) == (shown, None)


@pytest.mark.parametrize(
    "url",
    [
        "http://ada:secret@proxy.example.com:3128",
        "http://ada@proxy.example.com:3128",
        "socks5://ada:se%40cret@192.0.2.7:1080",
        "http://ada:s@cret@proxy.example.com:3128",
    ],
)
def test_user_and_password_are_kept_and_not_shown(url: str) -> None:
    proxy = read_proxy(url)
    assert proxy.secret == url
    assert "ada" not in proxy.shown + repr(proxy)
    assert "cret" not in proxy.shown + repr(proxy)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "proxy.example.com:3128",
        "http://proxy.example.com",
        "http://proxy.example.com:0",
        "http://proxy.example.com:65536",
        "http://:3128",
        "http://[::1:3128",
        "ftp://proxy.example.com:21",
        "direct://",
        "http://one:1,http://two:2",
        "http://one:1;two:2",
        "http://proxy.example.com:3128/path",
        "http://proxy.example.com:3128?query",
        "http://proxy.example.com:3128 --no-sandbox",
        "http://pro\nxy.example.com:3128",
        "https://ada:secret@proxy.example.com:443",
        "socks4://ada:secret@proxy.example.com:1080",
        "http://:secret@proxy.example.com:3128",
        "http://a%3Ada:secret@proxy.example.com:3128",
        "http://ada:sec%0D%0Aret@proxy.example.com:3128",
        f"http://ada:{'x' * 256}@proxy.example.com:3128",
    ],
)
def test_what_no_browser_could_go_by_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(BadProxy) as refused:
        read_proxy(url)
    assert "secret" not in str(refused.value)
