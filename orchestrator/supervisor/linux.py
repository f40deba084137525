"""Services of Linux that Python's standard library lacks: inotify, subreaper, death with the parent, process title.

Each is an improvement that a host can do without (another kernel, a locked-down container):
callers go on when one is not to be had. Sources: inotify(7), prctl(2), proc(5).
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
from pathlib import Path
from typing import Collection, Optional

_libc = ctypes.CDLL(None, use_errno=True)

_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE = 0x2, 0x80, 0x100
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_POLL_S = 0.1  # how long to wait for news where inotify is not to be had


class Watcher:
    """Wakes up when a file in one of the watched folders is made, renamed into place or written to."""

    def __init__(self) -> None:
        self._fd: Optional[int] = None
        fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if fd >= 0:  # else: the user's inotify instances are used up; wait() polls
            self._fd = fd

    def add(self, folder: Path) -> None:
        """Watch *folder*, which must exist; a folder that cannot be watched makes wait() poll."""
        if self._fd is None:
            return
        if _libc.inotify_add_watch(self._fd, os.fsencode(folder), _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE) < 0:
            self.close()

    def wait(self, timeout_s: float, *others: int) -> None:
        """Return at the first news, when one of the file descriptors *others* is readable, or in time."""
        fds = list(others) if self._fd is None else [self._fd, *others]
        timeout_s = min(timeout_s, _POLL_S) if self._fd is None else timeout_s
        readable, _, _ = select.select(fds, [], [], max(timeout_s, 0.0))
        if self._fd in readable and self._fd is not None:
            try:
                os.read(self._fd, 65536)  # which file it was does not matter: readers look at all of theirs
            except BlockingIOError:
                pass  # somebody else's wake-up: there is nothing to drain

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def close_from(first: int, *, keep: Collection[int] = ()) -> None:
    """Close every file descriptor from *first* on but those to *keep*."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= first and int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:
                continue  # the descriptor that listed the folder


def become_subreaper() -> None:
    """Make orphans below this process its children, so that a daemon of a rank stays in our tree."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it is gone, however that ended."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def set_title(title: str) -> None:
    """Show *title* in `ps` instead of the command line that this process was forked from."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, proc(5) fields 48 and 49
    except (OSError, ValueError, IndexError):
        return
    if 0 < start < end:
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, title.encode()[: end - start - 1], min(len(title.encode()), end - start - 1))
