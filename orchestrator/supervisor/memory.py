"""Whether a rank was killed because memory ran out: by its cgroup's limit, or by the kernel of the machine.

Sources: cgroups(7); memory.events of cgroup v2, memory.oom_control of v1; /proc/vmstat; /dev/kmsg.
"""

from __future__ import annotations

import os
import re
import signal
from typing import Any, Dict, Mapping, Optional, Tuple

_COUNT = re.compile(rb"^oom_kill (\d+)$", re.M)
_MACHINE = "/proc/vmstat"
_OF_CGROUP = "Memory cgroup"  # how a kill for the limit of one begins
_KILLED = re.compile(r"[Oo]ut of memory: Killed process (\d+)")
_RECORD = 8192  # bytes that one record of the kernel's log has at most


class Memory:
    """Counts what the kernel has killed for want of memory since the ranks were started."""

    def __init__(self) -> None:
        self._files: Dict[int, Tuple[str, ...]] = {}  # by rank: where its kills are counted, the nearest first
        self._before: Dict[str, int] = {}
        self._log: Optional[int] = None
        try:
            self._log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._log, 0, os.SEEK_END)
        except OSError:
            pass  # not for us to read: the counters say nearly as much
        self._killed: Dict[int, str] = {}  # pid: the line

    def note(self, rank: int, pid: int) -> None:
        """Note where kills of *rank*, which was started just now, are counted."""
        files = (*_of_cgroup(pid), _MACHINE)
        self._files[rank] = files
        for name in files:
            if name not in self._before and (count := _count(name)) is not None:
                self._before[name] = count

    def of_end(self, rank: int, pid: int, ending: Mapping[str, Any]) -> Optional[Dict[str, str]]:
        """Return `by` and `evidence` where *rank*, which ended like this, was killed for want of memory."""
        if ending.get("signal") != signal.SIGKILL and ending.get("code") != 128 + signal.SIGKILL:
            return None  # the second is how a shell passes on that its child was killed
        self._read_log()
        if pid in self._killed:
            line = self._killed[pid]
            return {"by": "cgroup" if line.startswith(_OF_CGROUP) else "kernel", "evidence": line}
        for name in self._files.get(rank, ()):
            count = _count(name)
            if name in self._before and count is not None and count > self._before[name]:
                evidence = f"SIGKILL that nobody here sent; oom_kill rose to {count} in {name}"
                return {"by": "kernel" if name == _MACHINE else "cgroup", "evidence": evidence}
        return None

    def _read_log(self) -> None:
        while self._log is not None:
            try:
                record = os.read(self._log, _RECORD).decode("utf-8", "replace")
            except BrokenPipeError:
                continue  # the kernel overwrote what we had not read yet; the next call goes on behind it
            except OSError:
                return
            if not record:
                return
            killed = _KILLED.search(record)
            if killed:
                self._killed[int(killed.group(1))] = record.partition(";")[2].splitlines()[0]


def _count(path: str) -> Optional[int]:
    try:
        with open(path, "rb") as file:
            found = _COUNT.search(file.read())
    except OSError:
        return None
    return int(found.group(1)) if found else None


def _of_cgroup(pid: int) -> Tuple[str, ...]:
    """Return the file that counts the kills in the cgroup of *pid*, where its memory is accounted for and we see it."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return ()
    candidates = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if "memory" in controllers.split(","):
            candidates += [
                f"/sys/fs/cgroup/memory{path}/memory.oom_control",
                "/sys/fs/cgroup/memory/memory.oom_control",
            ]
        elif not controllers:
            roots = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
            # in a container the path is the machine's, and the root is our own
            candidates += [f"{root}{inner}/memory.events" for root in roots for inner in (path.rstrip("/"), "")]
    return tuple(name for name in dict.fromkeys(candidates) if _count(name) is not None)[:1]
