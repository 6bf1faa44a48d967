"""What leaves the control plane: where it may go, how it is signed, and what is made of the answer."""

import base64
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from boxkeep_server.outbound.addresses import Reach, attached, is_near, is_public, parse
from boxkeep_server.outbound.post import Lookup, NotSent, Poster
from boxkeep_server.outbound.signature import as_text, headers
from boxkeep_server.outbound.target import Target, target_of
from tests.receivers import Receiver, receiving

LOOPBACK = Reach(["127.0.0.0/8"])

REFUSED = [
    *("0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "168.63.129.16"),
    *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1"),
    *("198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:7f00:1", "::127.0.0.1", "64:ff9b::a00:1"),
    *("64:ff9b:1::a00:1", "100::1", "2001::1", "2001:db8::1", "2002:a00:1::1", "3fff::1", "5f00::1", "fc00::1"),
    *("fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "::ffff:0:10.0.0.1"),
    *("not an address", "localhost", "127.1", "0x7f000001", "2130706433", "1.2.3.4.5", ""),
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "192.0.3.1", "198.20.0.1", "223.255.255.255"]
PUBLIC += ["2606:4700:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("address", REFUSED)
def test_no_webhook_reaches_an_address_of_the_inside(address: str) -> None:
    assert not Reach(near=lambda _: False).allows(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_webhooks_reach_the_public_internet(address: str) -> None:
    assert Reach(near=lambda _: False).allows(address)
    assert not Reach(near=lambda _: True).allows(address)


def test_an_operator_opens_a_network_and_nothing_beside_it() -> None:
    reach = Reach(["10.1.2.0/24", "fd00:1::/64"], near=lambda _: False)
    assert reach.allows("10.1.2.3")
    assert reach.allows("::ffff:10.1.2.3")
    assert reach.allows("fd00:1::5")
    assert not reach.allows("10.1.3.3")
    assert not reach.allows("fd00:2::5")


def test_the_hosts_own_address_is_known_without_sending() -> None:
    own, other = parse("127.0.0.1"), parse("203.0.113.77")
    assert own is not None
    assert other is not None
    assert is_near(own)
    assert not is_near(other)


ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0102030A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t00010505\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth1\t00000606\t01010505\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0
"""
_ANY = "0" * 32
ROUTES_V6 = f"""26064700{"0" * 24} 20 {_ANY} 00 {_ANY} 00000100 00000001 00000000 00000001     eth0
{_ANY} 00 {_ANY} 00 fe80{"0" * 27}1 00000400 00000001 00000000 00000003     eth0
2a001450{"0" * 24} 20 {_ANY} 00 fe80{"0" * 27}1 00000400 00000001 00000000 00000003     eth0
{_ANY} 00 {_ANY} 00 {_ANY} ffffffff 00000001 00000000 00200200       lo
"""


def test_networks_without_a_gateway_are_the_attached_ones() -> None:
    assert [str(network) for network in attached(ROUTES, ROUTES_V6)] == ["5.5.1.0/24", "2606:4700::/32"]


def test_the_hosts_own_listings_can_be_read() -> None:
    listings = [Path("/proc/net", name).read_text() for name in ("route", "ipv6_route")]
    assert all(network.prefixlen > 0 for network in attached(*listings))


def test_what_the_standard_library_calls_special_is_not_public() -> None:
    for text in REFUSED[:21]:
        address = ipaddress.ip_address(text)
        assert not is_public(address)
        assert text in ("192.88.99.1", "168.63.129.16") or not address.is_global or address.is_multicast


WRONG_URLS = {
    "ftp://example.com/": "must begin with",
    "https://": "must name a host",
    "https:///path": "must name a host",
    "https://user:pass@example.com/": "neither a user",
    "https://example.com@10.0.0.1/": "neither a user",
    "https://example.com/#part": "nor a fragment",
    "https://example.com/a b": "printable ASCII",
    "https://example.com/\r\nX-Other: 1": "printable ASCII",
    "https://exämple.com/": "printable ASCII",
    "https://example.com\\@10.0.0.1/": "printable ASCII",
    "https://example.com:0/": "a port that can be",
    "https://example.com:99999/": "must be a URL",
    "https://[::1/": "must be a URL",
    "https://[fe80::1%25eth0]/": "must",
    "https://exa mple.com/": "printable ASCII",
    "https://exa%6dple.com/": "must name a host",
    "https://" + "a" * 2048: "at most 2048",
}


@pytest.mark.parametrize("url", WRONG_URLS, ids=range(len(WRONG_URLS)))
def test_a_url_that_leaves_anything_open_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=WRONG_URLS[url]):
        target_of(url)


def test_a_url_becomes_the_one_target_that_it_names() -> None:
    assert target_of("https://Example.com/a?b=c") == Target(True, "example.com", 443, "/a?b=c")
    assert target_of("http://example.com:8080") == Target(False, "example.com", 8080, "/")
    assert target_of("https://[2606:4700::1]:444/").authority == "[2606:4700::1]:444"
    assert target_of("https://example.com:443/").authority == "example.com"


def test_the_signature_is_that_of_the_specifications_example() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    key = base64.b64decode(secret.removeprefix("whsec_"))
    assert as_text(key) == secret
    assert headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [key]) == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_every_secret_signs_the_same_message() -> None:
    both = headers("evt_1", 1614265330, b"{}", [b"a" * 32, b"b" * 32])["webhook-signature"].split(" ")
    each = [headers("evt_1", 1614265330, b"{}", [key])["webhook-signature"] for key in (b"a" * 32, b"b" * 32)]
    assert both == each


async def _resolve(host: str, port: int) -> Sequence[str]:
    """`inside` and `mixed` are names that lead where they must not."""
    names = {
        "inside.test": ["10.0.0.1"],
        "mixed.test": ["127.0.0.1", "169.254.169.254"],
        "nowhere.test": [],
        "receiver.test": ["127.0.0.2", "127.0.0.1"],
    }
    if host == "unknown.test":
        raise socket.gaierror
    return names.get(host, [host])


def poster(whole_s: float = 10.0, tls: ssl.SSLContext | None = None) -> Poster:
    return Poster(LOOPBACK, _resolve, tls or ssl.create_default_context(), whole_s)


@pytest.mark.parametrize("path", ["/ok", "/accepted", "/body"])
async def test_a_2xx_is_taken_and_no_more_is_read(path: str) -> None:
    async with receiving() as receiver:
        status = await poster().post(target_of(receiver.url(path)), {"webhook-id": "m"}, b'{"id":"x"}')
        assert status in (200, 202, 204)
        (got,) = receiver.got
    assert got.body == b'{"id":"x"}'
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert got.headers["webhook-id"] == "m"


async def test_a_redirect_is_not_followed() -> None:
    async with receiving() as receiver:
        assert await poster().post(target_of(receiver.url("/redirect")), {}, b'{"id":"x"}') == 307
        assert [one.path for one in receiver.got] == ["/redirect"]


UNREADABLE = {
    "/close": "ended before",
    "/cut": "ended before",
    "/garbage": "not HTTP",
    "/head": "too large",
    "/interim": "never came",
}


@pytest.mark.parametrize("path", UNREADABLE)
async def test_an_answer_that_is_none_is_a_sentence(path: str) -> None:
    async with receiving() as receiver:
        with pytest.raises(NotSent, match=UNREADABLE[path]):
            await poster().post(target_of(receiver.url(path)), {}, b'{"id":"x"}')


async def test_a_receiver_that_stalls_is_given_up_and_its_connection_closed() -> None:
    async with receiving() as receiver:
        with pytest.raises(NotSent, match="No answer within"):
            await poster(0.2).post(target_of(receiver.url("/stall")), {}, b'{"id":"x"}')
        assert receiver.stalling == 1


NAMES = {
    "inside.test": "not one that webhooks may reach",
    "mixed.test": "not one that webhooks may reach",
    "10.0.0.1": "not one that webhooks may reach",
    "nowhere.test": "leads to no address",
    "unknown.test": "leads to no address",
}


@pytest.mark.parametrize("host", NAMES)
async def test_a_name_that_leads_inside_is_never_connected_to(host: str) -> None:
    async with receiving() as receiver:
        with pytest.raises(NotSent, match=NAMES[host]) as told:
            await poster().post(target_of(receiver.url("/ok", host)), {}, b'{"id":"x"}')
        assert receiver.got == []
    assert "169.254" not in str(told.value)


async def test_a_name_is_looked_up_once_and_what_was_checked_is_what_is_connected_to() -> None:
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    async with receiving() as receiver:
        sender = Poster(LOOPBACK, rebinding, ssl.create_default_context())
        assert await sender.post(target_of(receiver.url("/ok", "changing.test")), {}, b'{"id":"x"}') == 204
        assert receiver.got[0].headers["host"] == f"changing.test:{receiver.port}"
    assert asked == ["changing.test"]


async def test_the_next_address_is_tried_where_one_does_not_listen() -> None:
    async with receiving() as receiver:
        assert await poster().post(target_of(receiver.url("/ok", "receiver.test")), {}, b'{"id":"x"}') == 204


async def test_what_listens_nowhere_cannot_be_reached() -> None:
    async with receiving() as receiver:
        url = receiver.url("/ok", "127.0.0.3")
        with pytest.raises(NotSent, match="cannot be reached"):
            await poster().post(target_of(url), {}, b'{"id":"x"}')


async def test_no_proxy_of_the_environment_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with receiving() as receiver:
        assert await poster().post(target_of(receiver.url("/ok")), {}, b'{"id":"x"}') == 204


async def test_the_systems_resolver_answers_and_says_when_there_is_nothing() -> None:
    look = Lookup()
    assert "127.0.0.1" in await look("localhost", 80)
    assert await look("127.1", 80) == ["127.0.0.1"]
    with pytest.raises(OSError, match=r".+"):
        await look("x" * 64, 80)


def _certificate(directory: Path, name: str) -> Path:
    """A file with a key and a certificate that signs itself."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = directory / f"{name}.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *plain) + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


async def _over_tls(receiver: Receiver, host: str, tls: ssl.SSLContext) -> int:
    url = receiver.url("/ok", host).replace("http://", "https://")
    return await poster(tls=tls).post(target_of(url), {}, b'{"id":"x"}')


async def test_a_certificate_is_verified_for_the_name_though_the_address_is_connected_to(tmp_path: Path) -> None:
    certificate = _certificate(tmp_path, "receiver.test")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with receiving(ssl=serving) as receiver:
        assert await _over_tls(receiver, "receiver.test", trusting) == 204
        for host, tls in (("127.0.0.1", trusting), ("receiver.test", ssl.create_default_context())):
            with pytest.raises(NotSent, match="TLS failed"):
                await _over_tls(receiver, host, tls)
        assert len(receiver.got) == 1
