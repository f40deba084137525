"""End what the ranks of a run left behind: daemons, orphans, processes in groups of their own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection
from typing import Set

from orchestrator.supervisor.process import (
    all_processes,
    carries_mark,
    descendants,
    read_stat,
    send_signal,
    wait_until_gone,
)

_ROUND_S = 0.5


def leftovers(run_id: str, keepers: Collection[int]) -> Set[int]:
    """Return the pids that carry the mark of the run or descend from its *keepers*, without the keepers."""
    processes = all_processes()
    marked = {pid for pid in processes if carries_mark(pid, run_id)}
    return (marked | descendants(keepers, processes)) - set(keepers) - {os.getpid()}


def sweep(find: Callable[[], Set[int]], grace_s: float) -> None:
    """End every process that *find* returns, until it returns none: SIGTERM, SIGKILL when the grace is over.

    Gives up on processes that are in the kernel's hands: a device or a file system that does not answer.
    """
    deadline = time.monotonic() + grace_s
    while found := find():
        killing = time.monotonic() >= deadline
        for pid in found:
            send_signal(pid, signal.SIGKILL if killing else signal.SIGTERM)
            send_signal(pid, signal.SIGCONT)  # a stopped process cannot end
        wait_until_gone(found, _ROUND_S if killing else min(_ROUND_S, deadline - time.monotonic()))
        if killing and all(_is_unkillable(pid) for pid in found):
            return


def _is_unkillable(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.state == "D"
