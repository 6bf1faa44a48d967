"""What a hostile root tries from inside a machine, with the errno that stopped each try, 0 where nothing did."""

import ctypes
import fcntl
import json
import os
import socket
from collections.abc import Callable
from functools import partial

libc = ctypes.CDLL(None, use_errno=True)
SYSCALLS = {
    "setns": (308, (0, 0)),
    "clone into a new user namespace": (56, (0x10000000 | 17, 0, 0, 0, 0)),
    "clone3": (435, (0, 0)),
    "bpf": (321, (0, 0, 0)),
    "perf_event_open": (298, (0, 0, -1, -1, 0)),
    "io_uring_setup": (425, (1, 0)),
    "userfaultfd": (323, (0,)),
    "keyctl": (250, (0, 0, 0, 0, 0)),
    "add_key": (248, (0, 0, 0, 0, 0)),
    "ptrace attach to the guest": (101, (16, 1, 0, 0)),
    "ptrace seize the guest": (101, (0x4206, 1, 0, 0)),
    "process_vm_readv of the guest": (310, (1, 0, 0, 0, 0, 0)),
    "kcmp": (312, (1, 1, 0, 0, 0)),
    "pidfd_getfd": (438, (0, 0, 0)),
    "open_by_handle_at": (304, (0, 0, 0)),
    "fsopen": (430, (0, 0)),
    "open_tree": (428, (-100, 0, 1)),
    "move_mount": (429, (0, 0, 0, 0, 0)),
    "pivot_root": (155, (0, 0)),
    "mount": (165, (0, 0, 0, 0, 0)),
    "umount": (166, (0, 0)),
    "finit_module": (313, (0, 0, 0)),
    "kexec_load": (246, (0, 0, 0, 0)),
    "reboot": (169, (0, 0, 0, 0)),
    "swapon": (167, (0, 0)),
    "syslog": (103, (10, 0, 0)),
    "settimeofday": (164, (0, 0)),
    "iopl": (172, (3,)),
    "acct": (163, (0,)),
    "quotactl": (179, (0, 0, 0, 0)),
}
WRITES = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sysrq-trigger",
    "/sys/class/net/eth0/mtu",
    "/sys/kernel/uevent_helper",
    "/.boxkeep/boot.json",
    "/.boxkeep/guest/responder.py",
)
READS = ("/proc/1/mem", "/proc/1/environ", "/dev/mem", "/dev/kmsg", "/dev/loop-control", "/dev/fuse")
# On the log, the one directory inside that lies on btrfs itself: what they make no limit counts.
BTRFS = {"subvolume": 0x5000940E, "snapshot": 0x50009417, "limit": 0x8030942B, "search": 0xD0009411, "sync": 0x9408}
SOCKETS = {"AF_ALG": (38, 5, 0), "AF_VSOCK": (40, 1, 0), "AF_PACKET": (17, 3, 0), "AF_XDP": (44, 3, 0)}


def outcome(attempt: Callable[[], object]) -> int:
    try:
        attempt()
    except OSError as error:
        return error.errno or -1
    return 0


def system_call(number: int, arguments: tuple[int, ...]) -> None:
    if libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), "")


def unshare(flag: int) -> None:
    if libc.unshare(flag) < 0:
        raise OSError(ctypes.get_errno(), "")


def write(path: str) -> None:
    with open(path, "r+b", buffering=0) as file:
        file.write(b"1")


def read(path: str) -> None:
    with open(path, "rb", buffering=0) as file:
        file.read(1)


def control(number: int) -> None:
    directory = os.open("/.boxkeep/log", os.O_RDONLY)
    try:
        fcntl.ioctl(directory, number, bytearray(8) + b"made" + bytes(4084))
    finally:
        os.close(directory)


def wide_control(number: int) -> None:
    name = ctypes.create_string_buffer(bytes(8) + b"wide", 4096)
    system_call(16, (os.open("/.boxkeep/log", os.O_RDONLY), number, ctypes.addressof(name)))


def main() -> None:
    tries: dict[str, Callable[[], object]] = {name: partial(system_call, *call) for name, call in SYSCALLS.items()}
    for name, flag in {"user": 1 << 28, "mount": 1 << 17, "net": 1 << 30, "pid": 1 << 29, "time": 1 << 7}.items():
        tries[f"unshare {name}"] = partial(unshare, flag)
    tries |= {f"write {path}": partial(write, path) for path in WRITES}
    tries |= {f"read {path}": partial(read, path) for path in READS}
    tries |= {name: partial(socket.socket, *kind) for name, kind in SOCKETS.items()}
    tries |= {f"btrfs {name}": partial(control, number) for name, number in BTRFS.items()}
    # The kernel cuts the number to 32 bits, and so must whoever filters it.
    tries["btrfs subvolume in 64 bits"] = partial(wide_control, BTRFS["subvolume"] | 1 << 32)
    tries["moving the guest's directory"] = partial(os.rename, "/.boxkeep", "/elsewhere")
    tries["mknod of a disk"] = partial(os.mknod, "/root/disk", 0o60600, os.makedev(254, 0))
    tries["mknod of memory"] = partial(os.mknod, "/root/mem", 0o20600, os.makedev(1, 1))
    tries["chroot"] = partial(os.chroot, "/root")
    print(json.dumps({name: outcome(attempt) for name, attempt in tries.items()}))
    os.kill(1, 9)


main()
