"""Processes told apart for certain: a pid alone is reused, a pid with its start time is not."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from typing import Dict, Iterable, List, NamedTuple, Optional, Set

# Environment variables that every process of a run inherits.
MARK = "ASCENDRUN_RUN_ID"
FOLDER = "ASCENDRUN_RUN_FOLDER"  # of the run on this host


class Stat(NamedTuple):
    """What /proc/PID/stat says of one process. Source: proc(5)."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    start_ticks: int  # clock ticks after boot

    @property
    def is_dead(self) -> bool:
        return self.state in "ZX"


def read_stat(pid: int) -> Optional[Stat]:
    """Return what is known of *pid*, or None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold blanks and brackets
    return Stat(pid, fields[0], int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


class Identity(NamedTuple):
    """One certain process of this boot."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> "Optional[Identity]":
        stat = read_stat(pid)
        return None if stat is None else cls(pid, stat.start_ticks)

    def is_alive(self) -> bool:
        stat = read_stat(self.pid)
        return stat is not None and stat.start_ticks == self.start_ticks and not stat.is_dead


class Place(NamedTuple):
    """Where a pid means something: one boot of one machine, one pid namespace of it (a container has its own)."""

    host: str
    machine: str  # /etc/machine-id, where there is one: host names are not unique
    boot: str
    namespace: int

    @classmethod
    def here(cls) -> "Place":
        return cls(
            socket.gethostname(),
            _first_line("/etc/machine-id"),
            _first_line("/proc/sys/kernel/random/boot_id"),
            os.stat("/proc/self/ns/pid").st_ino,
        )

    def is_same_machine(self, other: "Place") -> bool:
        return (self.host, self.machine) == (other.host, other.machine)


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.readline().strip()
    except (OSError, ValueError):
        return ""


def all_processes() -> Dict[int, Stat]:
    """Return every process of this host (of this pid namespace) that is not dead, by pid."""
    stats = (read_stat(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {stat.pid: stat for stat in stats if stat is not None and not stat.is_dead}


def descendants(roots: Iterable[int], processes: Dict[int, Stat]) -> Set[int]:
    """Return the pids below *roots* in the process tree, without the roots themselves."""
    children: Dict[int, List[int]] = {}
    for stat in processes.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    found: Set[int] = set()
    queue = list(roots)
    while queue:
        for child in children.get(queue.pop(), ()):
            if child not in found:
                found.add(child)
                queue.append(child)
    return found


def carries_mark(pid: int, run_id: str) -> bool:
    """Tell whether *pid* was started with the mark of the run in its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{MARK}={run_id}".encode() in file.read().split(b"\0")
    except OSError:
        return False


def send_signal(pid: int, number: int, *, group: bool = False) -> bool:
    """Send a signal; False where nobody (or nobody we may signal) is left to get it."""
    try:
        (os.killpg if group else os.kill)(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def signal_name(number: int) -> str:
    """Return `SIGKILL` for 9; `signal 63` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def wait_until_gone(pids: Iterable[int], timeout_s: float) -> None:
    """Return when all *pids* have ended, or when the time is over."""
    deadline = time.monotonic() + timeout_s
    for pid in pids:
        left_s = max(0.0, deadline - time.monotonic())
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        except (OSError, AttributeError):  # a kernel before 5.3 has no pidfd
            while read_stat(pid) is not None and time.monotonic() < deadline:
                time.sleep(min(0.05, left_s))
            continue
        try:
            select.select([handle], [], [], left_s)
        finally:
            os.close(handle)
