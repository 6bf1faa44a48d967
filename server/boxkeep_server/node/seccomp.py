"""The system calls that a machine under runc may make: a list of what is allowed, everything else is refused."""

import platform
import signal
from typing import Any, Final

_ARCHITECTURES: Final = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_ENOSYS: Final = 38
_EPERM: Final = 1
_EAFNOSUPPORT: Final = 97
# CLONE_NEW*: time, mount, cgroup, uts, ipc, user, pid, net.
_NAMESPACES: Final = 0x80 | 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000
# Those that a browser locks its renderers up in: user, pid, net. In them it mounts nothing.
_CELLS: Final = 0x10000000 | 0x20000000 | 0x40000000
# The type that all ioctls of btrfs carry in their number, and those of them that any program uses to copy a file.
_BTRFS: Final = 0x94
_CLONING: Final = (0x40049409, 0x4020940D, 0xC0189436)
_RLIMIT_CORE: Final = 4
_SOCKET_FAMILIES: Final = (1, 2, 10, 16)  # unix, IPv4, IPv6, netlink
_PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0x40000, 0xFFFFFFFF)
# A process may ask to be traced and its tracer may work; nobody may attach to a process that did not ask.
_PTRACE: Final = (*range(10), *range(12, 16), 17, 24, *range(0x4200, 0x4206))

# The calls that send signals, with the places of the process and of the signal among their arguments.
_SIGNALLING: Final = {
    "kill": (0, 1),
    "tkill": (0, 1),
    "tgkill": (0, 2),
    "rt_sigqueueinfo": (0, 1),
    "rt_tgsigqueueinfo": (0, 2),
}

_FILES: Final = """
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
    fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64
    fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
    ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch lchown lchown32 lgetxattr link linkat listxattr listxattrat llistxattr
    lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat newfstatat open openat openat2 pread64
    preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr removexattrat
    rename renameat renameat2 rmdir sendfile sendfile64 setxattr setxattrat splice stat stat64 statfs statfs64
    statx symlink symlinkat sync sync_file_range sync_file_range2 syncfs tee truncate truncate64 umask unlink
    unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev name_to_handle_at
"""
_WAITING: Final = """
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
    eventfd2 poll ppoll ppoll_time64 pselect6 pselect6_time64 select _newselect signalfd signalfd4 timerfd_create
    timerfd_gettime timerfd_settime io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit
"""
_MEMORY: Final = """
    brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2
    mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_madvise
    process_mrelease remap_file_pages get_mempolicy
"""
_PROCESSES: Final = """
    alarm arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue futex_wait futex_waitv
    futex_wake get_robust_list get_thread_area getcpu getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups
    getgroups32 getitimer getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid
    getresuid32 getrlimit getrusage getsid gettid getuid getuid32 ioprio_get ioprio_set kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self nice pause pidfd_open pidfd_send_signal prctl restart_syscall
    rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler
    sched_yield seccomp set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32
    setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32
    setresuid setresuid32 setreuid setreuid32 setsid setuid setuid32 sigaltstack tgkill time timer_create
    timer_delete timer_getoverrun timer_gettime timer_settime times tkill ugetrlimit uname vfork wait4 waitid
    waitpid sysinfo clock_getres clock_gettime clock_nanosleep gettimeofday nanosleep chroot
"""
_TALKING: Final = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmsg send
    sendmmsg sendmsg sendto setsockopt shutdown socketpair pipe pipe2 mq_getsetattr mq_notify mq_open
    mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop shmat shmctl
    shmdt shmget
"""


def profile(machine: str = platform.machine(), *, cells: bool = False) -> dict[str, Any]:
    """The seccomp section of an OCI config for the host's architecture. `cells`: a browser may lock up its own parts.

    Refused with EPERM: namespaces, mounts, attaching to other processes, keys, BPF, performance counters, io_uring,
    userfaultfd, modules, clocks, swap, reboot. Unknown calls are answered ENOSYS, so that programs fall back.
    """
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _ENOSYS,
        "architectures": [_ARCHITECTURES[machine]],
        "syscalls": [
            _allow(" ".join((_FILES, _WAITING, _MEMORY, _PROCESSES, _TALKING)).split()),
            _refuse(_REFUSED.split(), _EPERM),
            *_namespaces(_NAMESPACES & ~_CELLS if cells else _NAMESPACES),
            *(_allow(["socket"], _equals(0, family)) for family in _SOCKET_FAMILIES),
            _refuse(["socket"], _EAFNOSUPPORT, {"index": 0, "value": max(_SOCKET_FAMILIES), "op": "SCMP_CMP_GT"}),
            *(_allow(["personality"], _equals(0, value)) for value in _PERSONALITIES),
            *(_allow(["ptrace"], _equals(0, request)) for request in _PTRACE),
            *(_refuse(["ptrace"], _EPERM, _equals(0, request)) for request in (16, 0x4206)),
            *_core_limits(),
            *_ioctls(),
        ],
    }


def gvisor_profile(machine: str = platform.machine()) -> dict[str, Any]:
    """The seccomp section for the kernel that gVisor is itself: all but killing or stopping PID 1, which Linux refuses.

    New namespaces and the like are gVisor's own and nothing to the host.
    """
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": [_ARCHITECTURES[machine]],
        "syscalls": [
            _refuse([name], _EPERM, _equals(target, 1), _equals(number, mortal))
            for name, (target, number) in _SIGNALLING.items()
            for mortal in (signal.SIGKILL, signal.SIGSTOP)
        ],
    }


_REFUSED: Final = """
    acct add_key adjtimex bpf clock_adjtime clock_settime delete_module fanotify_init finit_module fsconfig fsmount
    fsopen fspick init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load
    kexec_load keyctl listmount lookup_dcookie mbind migrate_pages mount mount_setattr move_mount move_pages
    nfsservctl open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_vm_readv
    process_vm_writev quotactl quotactl_fd reboot request_key set_mempolicy setdomainname sethostname setns
    settimeofday statmount stime swapoff swapon syslog umount umount2 userfaultfd vhangup
"""


def _namespaces(refused: int) -> list[dict[str, Any]]:
    none = {"index": 0, "value": refused, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    return [
        _allow(["clone", "unshare"], none),
        # clone3 hides its flags behind a pointer; the C library falls back to clone on ENOSYS.
        _refuse(["clone3"], _ENOSYS),
    ]


def _core_limits() -> list[dict[str, Any]]:
    """Setting the limit of core files succeeds and changes nothing.

    It stays at 1, at which the kernel calls no handler of the host; at 0 it would.
    """
    other = {"index": 0, "value": _RLIMIT_CORE, "op": "SCMP_CMP_NE"}
    reading = {"index": 2, "value": 0, "op": "SCMP_CMP_EQ"}
    writing = {"index": 2, "value": 0, "op": "SCMP_CMP_NE"}
    return [
        _allow(["setrlimit"], other),
        _refuse(["setrlimit"], 0, _equals(0, _RLIMIT_CORE)),
        _allow(["prlimit64"], {**other, "index": 1}),
        _allow(["prlimit64"], _equals(1, _RLIMIT_CORE), reading),
        _refuse(["prlimit64"], 0, _equals(1, _RLIMIT_CORE), writing),
    ]


def _ioctls() -> list[dict[str, Any]]:
    """All but btrfs's: the machine's log lies on it, and any owner of a directory may make subvolumes there.

    They would be outside of the disk's limit, and its disk could not be removed. Any bit by which a type is another
    one allows the call.
    """
    another = [(1 << bit, ~_BTRFS << 8 & 1 << bit) for bit in range(8, 16)]
    cloning = [(0xFFFFFFFF, number) for number in _CLONING]
    return [
        _allow(["ioctl"], {"index": 1, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"})
        for mask, value in (*another, *cloning)
    ]


def _equals(index: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}


def _allow(names: list[str], *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ALLOW", "args": list(conditions)}


def _refuse(names: list[str], errno: int, *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": list(conditions)}
