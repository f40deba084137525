"""End what the ranks of a run left behind: daemons, orphans, processes in groups of their own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection
from typing import Set

from orchestrator.supervisor.process import all_processes, carries_mark, descendants, read_stat, wait_until_gone

_ROUND_S = 0.5


def leftovers(run_id: str, keepers: Collection[int]) -> Set[int]:
    """Return the pids that carry the mark of the run or descend from its *keepers*, without the keepers."""
    processes = all_processes()
    marked = {pid for pid in processes if carries_mark(pid, run_id)}
    return (marked | descendants(keepers, processes)) - set(keepers) - {os.getpid()}


def sweep(find: Callable[[], Set[int]], deadline: Callable[[], float]) -> Set[int]:
    """End every process that *find* returns, until it returns none: SIGTERM, SIGKILL after *deadline* (monotonic).

    Returns those that cannot be ended: in the kernel's hands (a device or a file system that does not answer), or
    another user's (something started by sudo).
    """
    while found := find():
        killing = time.monotonic() >= deadline()
        foreign = {pid for pid in found if not _end(pid, signal.SIGKILL if killing else signal.SIGTERM)}
        wait_until_gone(found - foreign, _ROUND_S if killing else min(_ROUND_S, deadline() - time.monotonic()))
        stuck = foreign | {pid for pid in found if killing and _is_unkillable(pid)}
        if stuck >= found:
            return stuck
    return set()


def _end(pid: int, number: int) -> bool:
    """Send the signal; False where we are not allowed to."""
    try:
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)  # a stopped process cannot end
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


def _is_unkillable(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.state == "D"
