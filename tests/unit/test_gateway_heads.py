"""Heads as the gateway passes them on, and host names of previews: pure, with the tricks that are known."""

import h11
import pytest

from boxkeep_server.gateway.heads import (
    Origin,
    check_request,
    cookies_in,
    forwarded,
    mended,
    token_in,
    without_token,
)
from boxkeep_server.gateway.peers import HEAD_MOST, LINES_MOST, HeadGuard, Malformed
from boxkeep_server.gateway.refusals import Refusal
from boxkeep_server.model.previews import Place, PreviewUrls

BOX = "a" * 32
HERE = Origin("192.0.2.7", "http", believed=False)
KEY = b"br_live_" + b"k" * 32


def request(*headers: tuple[bytes, bytes], method: bytes = b"GET", target: bytes = b"/") -> h11.Request:
    return h11.Request(method=method, target=target, headers=[(b"Host", b"3000-x.localhost"), *headers])


def passed(*headers: tuple[bytes, bytes], origin: Origin = HERE, target: bytes = b"/") -> dict[bytes, list[bytes]]:
    sent: dict[bytes, list[bytes]] = {}
    for name, value in forwarded(request(*headers, target=target), origin).headers:
        sent.setdefault(name, []).append(value)
    return sent


def answered(*headers: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return mended(h11.Response(status_code=200, headers=list(headers)))


@pytest.mark.parametrize(
    "host",
    [f"3000-{BOX}.localhost", f"3000-{BOX}.localhost:7072", f"3000-{BOX}.LOCALHOST:1", f"3000-{BOX.upper()}.localhost"],
)
def test_a_host_names_one_port_of_one_sandbox(host: str) -> None:
    assert PreviewUrls.below("http://localhost:7072").place(host) == Place(BOX, 3000)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost",
        f"{BOX}.localhost",
        f"0-{BOX}.localhost",
        f"03000-{BOX}.localhost",
        f"65536-{BOX}.localhost",
        f"-1-{BOX}.localhost",
        f"3000-{BOX[1:]}.localhost",
        f"3000-{BOX}a.localhost",
        f"x.3000-{BOX}.localhost",
        f"3000-{BOX}.localhost.evil.example",
        f"3000-{BOX}.localhost@evil.example",
        f"3000-{BOX}.localhost:",
        f"3000-{BOX}.localhost:70:70",
        f"3000-{BOX}.localhost/x",
        f"3000-{BOX}.evil.example",
        f"3000-{BOX}.localhost\n",
        f"\uff13000-{BOX}.localhost",
    ],
)
def test_any_other_host_names_nothing(host: str) -> None:
    assert PreviewUrls.below("http://localhost:7072").place(host) is None


def test_urls_are_below_the_one_that_the_operator_gives() -> None:
    urls = PreviewUrls.below("https://preview.example.com")
    assert urls.base(BOX) == f"https://{{port}}-{BOX}.preview.example.com"
    assert urls.of(Place(BOX, 80)) == f"https://80-{BOX}.preview.example.com"
    assert urls.secure


def test_our_key_token_and_cookie_do_not_reach_the_sandbox() -> None:
    sent = passed(
        (b"Authorization", b"Bearer " + KEY),
        (b"X-Boxkeep-Token", b"t"),
        (b"X-Boxkeep-Anything", b"t"),
        (b"Cookie", b"a=1; ; boxkeep_preview=t; b=2;"),
        (b"Cookie", b"__Host-boxkeep_preview=t"),
        (b"Referer", b"http://x/?boxkeep_token=t&q=1"),
        target=b"/p?a=1&boxkeep_token=t&b=%20&boxkeep%5Ftoken=t",
    )
    assert not {b"authorization", b"x-boxkeep-token", b"x-boxkeep-anything"} & sent.keys()
    assert sent[b"cookie"] == [b"a=1; b=2"]
    assert sent[b"referer"] == [b"http://x/?q=1"]
    assert forwarded(request(target=b"/p?a=1&boxkeep_token=t&b=%20&boxkeep%5Ftoken=t"), HERE).target == b"/p?a=1&b=%20"


def test_the_users_own_credentials_do() -> None:
    sent = passed((b"Authorization", b"Bearer their-own"), (b"X-Empty", b""), (b"Cookie", b"sid=1"))
    assert sent[b"authorization"] == [b"Bearer their-own"]
    assert sent[b"x-empty"] == [b""]
    assert sent[b"cookie"] == [b"sid=1"]


def test_what_belongs_to_one_hop_is_not_passed_on() -> None:
    sent = passed(
        (b"Connection", b"close, X-Mine, Host, Cookie"),
        (b"X-Mine", b"1"),
        (b"Cookie", b"a=1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Proxy-Authorization", b"Basic x"),
        (b"TE", b"trailers"),
        (b"Upgrade", b"h2c"),
    )
    assert sent.keys() == {b"host", b"cookie", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"}


def test_only_a_websocket_may_change_the_protocol() -> None:
    assert passed((b"Connection", b"keep-alive, Upgrade"), (b"Upgrade", b"WebSocket"))[b"upgrade"] == [b"websocket"]
    for wrong in ([(b"Upgrade", b"websocket")], [(b"Connection", b"Upgrade"), (b"Upgrade", b"h2c")]):
        assert b"upgrade" not in passed(*wrong)


def test_where_a_request_came_from_is_our_word_unless_a_server_before_us_is_believed() -> None:
    lies = ((b"X-Forwarded-For", b"10.0.0.1"), (b"X-Forwarded-Proto", b"https"), (b"Forwarded", b"for=x"))
    sent = passed(*lies, (b"X-Real-IP", b"1.1.1.1"))
    assert sent[b"x-forwarded-for"] == [b"192.0.2.7"]
    assert sent[b"x-forwarded-proto"] == [b"http"]
    assert sent[b"x-forwarded-host"] == [b"3000-x.localhost"]
    assert not {b"forwarded", b"x-real-ip"} & sent.keys()
    sent = passed(*lies, origin=Origin("127.0.0.1", "https", believed=True))
    assert sent[b"x-forwarded-for"] == [b"10.0.0.1, 127.0.0.1"]
    assert sent[b"x-forwarded-proto"] == [b"https"]


@pytest.mark.parametrize(
    "wrong",
    [
        request(method=b"CONNECT", target=b"a:1"),
        request(method=b"TRACE"),
        request(target=b"http://other/"),
        request(target=b"*"),
        request((b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked"), method=b"POST"),
        h11.Request(method=b"POST", target=b"/", headers=[(b"Transfer-Encoding", b"chunked")], http_version=b"1.0"),
    ],
)
def test_what_two_servers_could_read_differently_is_refused(wrong: h11.Request) -> None:
    with pytest.raises(Refusal):
        check_request(wrong)


def test_an_answer_binds_a_browser_by_nothing_beyond_its_page() -> None:
    found = answered(
        (b"Service-Worker-Allowed", b"/"),
        (b"Clear-Site-Data", b'"*"'),
        (b"Strict-Transport-Security", b"max-age=9"),
        (b"Alt-Svc", b'h3=":443"'),
        (b"Connection", b"close, X-Gone"),
        (b"X-Gone", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Set-Cookie", b"a=1; Domain=localhost; Path=/; HttpOnly"),
        (b"Set-Cookie", b"b=2;domain = .example.com;Secure"),
        (b"Set-Cookie", b"boxkeep_preview=forged; Path=/"),
        (b"Set-Cookie", b"__Host-boxkeep_preview =forged"),
        (b"Set-Cookie", b"c=3 ; Domain=x"),
        (b"X-Kept", b"1"),
    )
    assert found == [
        (b"Set-Cookie", b"a=1; Path=/; HttpOnly"),
        (b"Set-Cookie", b"b=2;Secure"),
        (b"Set-Cookie", b"c=3"),
        (b"X-Kept", b"1"),
    ]


def test_a_token_is_found_where_there_is_one_and_the_rest_stays_as_it_is() -> None:
    assert token_in(b"/?a=b&boxkeep_token=x.y") == "x.y"
    assert token_in(b"/?boxkeep_token=a&boxkeep_token=b") == ""
    assert token_in(b"/boxkeep_token=a") == ""
    assert without_token(b"/%C3%A4?q=%zz&&x=&boxkeep_token=a#") == b"/%C3%A4?q=%zz&&x="
    assert without_token(b"/?boxkeep_token=a") == b"/"
    assert without_token(b"/?other=1") == b"/?other=1"


def test_cookies_are_read_as_browsers_send_them() -> None:
    assert list(cookies_in(request((b"Cookie", b"a=1;b = 2; c")))) == [("a", "1"), ("b ", " 2"), ("c", "")]


def test_a_head_is_bounded_before_it_is_parsed() -> None:
    for much in (b"GET / HTTP/1.1\r\nA: " + b"x" * HEAD_MOST, b"GET / HTTP/1.1\r\n" + b"a:\r\n" * LINES_MOST):
        with pytest.raises(Malformed):
            HeadGuard().feed(much)
        bit_by_bit = HeadGuard()
        most = HEAD_MOST if b"x" in much else 6 * LINES_MOST
        for at in range(0, most - 1000, 100):
            bit_by_bit.feed(much[at : at + 100])
        with pytest.raises(Malformed):
            bit_by_bit.feed(much)


def test_a_body_behind_a_head_is_not_counted_however_it_is_cut() -> None:
    whole = b"POST / HTTP/1.1\r\nA: b\r\n\r\n" + b"\n" * 1000
    for cut in range(1, 40):
        guard = HeadGuard()
        guard.feed(whole[:cut])
        guard.feed(whole[cut:])
        assert guard.whole
