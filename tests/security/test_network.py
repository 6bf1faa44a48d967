"""What the inside may reach: public addresses as allowed, and nothing of the host, its neighbours or its networks."""

import json
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from tests.clients import Api, Sandbox, fresh
from tests.services import Service

DIAL = """
timeout 10 bash -c 'exec 3<>/dev/tcp/{address}/{port}' 2>/tmp/why; code=$?
if [ $code = 0 ]; then echo connected; elif [ $code = 124 ]; then echo hung; else echo refused; fi
"""
REFUSED = [
    "169.254.169.254:80",
    "169.254.170.2:80",
    "169.254.1.1:53",
    "100.100.100.200:80",
    "168.63.129.16:80",
    "192.0.0.192:80",
    "10.0.0.1:80",
    "10.255.255.254:443",
    "172.16.0.1:80",
    "172.31.255.1:22",
    "192.168.0.1:80",
    "192.168.1.254:443",
    "100.64.0.1:80",
    "198.18.0.1:80",
    "0.0.0.1:80",
    "240.0.0.1:80",
]
# No router may answer what is sent to many (RFC 1122, 3.2.2). Linux itself refuses to send it; gVisor's stack waits.
TO_MANY = ["224.0.0.1:80", "239.255.255.250:1900", "255.255.255.255:80"]


def dial(box: Sandbox, address: str, port: int) -> str:
    """What becomes of a TCP connection from inside: connected, refused, or hung for ten seconds."""
    return str(box.exec(DIAL.format(address=address, port=port))["stdout"]).strip()


@pytest.fixture(scope="module")
def listener() -> Iterator[int]:
    """A port on every address of the host that answers whoever gets through."""
    with socket.create_server(("0.0.0.0", 0), backlog=64) as server:
        server.settimeout(0.2)
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    server.accept()[0].close()
                except TimeoutError:
                    continue

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        done.set()
        thread.join()


def host_addresses() -> list[str]:
    """Every IPv4 address of the host itself."""
    listed = subprocess.run(["ip", "-json", "-4", "addr"], capture_output=True, check=True, text=True).stdout
    return [info["local"] for link in json.loads(listed) for info in link["addr_info"] if link["ifname"] != "lo"]


def test_refused_ranges_are_refused_at_once(sandbox: Sandbox) -> None:
    told = {target: dial(sandbox, *_split(target)) for target in REFUSED}
    assert told == dict.fromkeys(REFUSED, "refused")


def test_what_goes_to_many_reaches_nobody(sandbox: Sandbox, isolation: str) -> None:
    told = {target: dial(sandbox, *_split(target)) for target in TO_MANY}
    assert set(told.values()) <= ({"refused"} if isolation == "runc" else {"refused", "hung"}), told


def _split(target: str) -> tuple[str, int]:
    address, _, port = target.partition(":")
    return address, int(port)


def test_no_address_of_the_host_is_reached(service: Service, sandbox: Sandbox, listener: int) -> None:
    reached = [address for address in host_addresses() if _accepts(address, listener)]
    assert reached
    for address in reached:
        told = {port: dial(sandbox, address, port) for port in (listener, service.port, 22, 7070, 7071)}
        # What runs beside this test takes its addresses along when it ends.
        assert set(told.values()) == {"refused"} or not _accepts(address, listener), (address, told)


def _accepts(address: str, port: int) -> bool:
    """Whether the host itself reaches a listener there, which says that it has this address now."""
    try:
        with socket.create_connection((address, port), 5):
            return True
    except OSError:
        assert address not in host_addresses()
        return False


def test_the_gateway_answers_for_names_and_nothing_else(service: Service, sandbox: Sandbox, listener: int) -> None:
    gateway = sandbox.run("ip -4 route show default 2>/dev/null | awk '{print $3}'").strip()
    assert gateway, "no default route inside"
    for port in (1, 22, 80, 443, 7070, 7071, 8080, 53535, service.port, listener):
        assert dial(sandbox, gateway, port) == "refused", (gateway, port)


def test_neither_neighbour_nor_its_guest_is_reached(api: Api, sandbox: Sandbox) -> None:
    with fresh(api, runtime="python", isolation="runc") as neighbour:
        neighbour.background("python3 -m http.server 8000 --bind 0.0.0.0")
        address = neighbour.run("hostname -I").split()[0]
        inside = "until curl -s -o /dev/null http://127.0.0.1:8000/; do sleep 0.1; done; echo up"
        assert neighbour.run(inside, timeout=30_000) == "up\n"
        for port in (8000, 7071, 22):
            assert dial(sandbox, address, port) == "refused", port


def test_loopback_inside_is_the_sandboxs_own(service: Service, sandbox: Sandbox, listener: int) -> None:
    for port in (service.port, listener):
        assert dial(sandbox, "127.0.0.1", port) == "refused"
        assert dial(sandbox, "127.1.2.3", port) == "refused"


@pytest.mark.parametrize("address", ["2606:4700:4700::1111", "2001:4860:4860::8888", "fd00::1", "fe80::1", "ff02::1"])
def test_nothing_is_reached_by_ipv6(sandbox: Sandbox, address: str) -> None:
    assert dial(sandbox, address, 80) == "refused"


def test_udp_and_icmp_to_the_host_and_private_ranges_get_nowhere(sandbox: Sandbox) -> None:
    addresses = host_addresses()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("0.0.0.0", 0))
        receiver.settimeout(1)
        port = receiver.getsockname()[1]
        for address in addresses:
            sandbox.exec(f"echo leaked > /dev/udp/{address}/{port}; true")
        with pytest.raises(TimeoutError):
            receiver.recvfrom(100)


def test_names_resolve_and_the_mirror_answers(sandbox: Sandbox) -> None:
    answer = sandbox.exec("apt-get update", timeout=120_000)
    assert answer["exitCode"] == 0, answer


def test_without_the_internet_nothing_is_reached(api: Api, isolation: str) -> None:
    with fresh(api, runtime="base", isolation=isolation, network={"internet": False}) as box:
        assert dial(box, "1.1.1.1", 80) == "refused"
        assert dial(box, "1.1.1.1", 443) == "refused"
        assert box.exec("apt-get update -o Acquire::Retries=0 -o APT::Update::Error-Mode=any")["exitCode"] != 0


def test_an_allow_list_opens_what_it_names_alone(api: Api, isolation: str) -> None:
    with fresh(api, runtime="base", isolation=isolation, network={"allow": ["203.0.113.0/24", "10.0.0.0/8"]}) as box:
        assert dial(box, "1.1.1.1", 80) == "refused"
        assert dial(box, "10.0.0.1", 80) == "refused"
        assert dial(box, "169.254.169.254", 80) == "refused"


def test_port_25_is_shut(sandbox: Sandbox) -> None:
    assert dial(sandbox, "1.1.1.1", 25) == "refused"


def test_an_address_that_is_not_its_own_cannot_be_taken(service: Service, sandbox: Sandbox) -> None:
    other = service.subnet.replace("0.0/16", "77.77")
    answer = sandbox.exec(f"ip addr add {other}/32 dev eth0 && ip route replace default dev eth0")
    assert answer["exitCode"] != 0
