"""Pseudo-terminals: made, sized, and told of a new size even where the kernel does not."""

import fcntl
import os
import signal
import struct
import termios

from boxkeep_guest.records import Terminal


def open_terminal(size: Terminal, uid: int) -> tuple[int, int]:
    """A new terminal of `size` for `uid`: its master and its slave."""
    master, slave = os.openpty()
    set_size(master, size)
    if uid:
        os.fchown(slave, uid, -1)
    return master, slave


def set_size(master: int, size: Terminal) -> None:
    """Set rows and columns."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.cols, 0, 0))


def announce_size(master: int) -> bool:
    """Tell the foreground group of the new size; false where this kernel does not say which it is."""
    try:
        group = os.tcgetpgrp(master)
        if group > 1:
            os.killpg(group, signal.SIGWINCH)
    except OSError:
        return False
    return True
