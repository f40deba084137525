"""CPU and memory of the ranks, by psutil where the host has it."""

from __future__ import annotations

import time
from typing import Any, Dict, Mapping, Optional, Set, Tuple

from orchestrator.supervisor import machine
from orchestrator.supervisor.process import Identity, all_processes, descendants

_TREES_EVERY_S = 5.0


class Figures:
    """Samples process trees. Without psutil it samples nothing, and says so in `missing`."""

    def __init__(self) -> None:
        machine.find_packages()
        try:
            import psutil  # 60 ms, and not on every host: only when the ranks are up
        except ImportError:
            self.missing: Optional[str] = "psutil is not installed for this Python"
            return
        self.missing = None
        self._psutil = psutil
        self._cpu: Dict[int, Tuple[float, float]] = {}  # root pid: (CPU seconds so far, when)
        self._trees: Dict[int, Set[int]] = {}  # by root pid
        self._trees_until = 0.0

    def sample(self, roots: Mapping[int, Identity]) -> Dict[int, Dict[str, Any]]:
        """Return `cpu_percent` (100: one core, since the last sample) and `rss_bytes` by rank.

        *roots* names the top process of each rank; all below it counts.
        """
        if self.missing:
            return {}
        now = time.monotonic()
        if now >= self._trees_until:  # looking at every process of a host costs more than all the rest
            processes = all_processes()
            self._trees = {root.pid: {root.pid, *descendants([root.pid], processes)} for root in roots.values()}
            self._trees_until = now + _TREES_EVERY_S
        return {
            rank: self._tree(root.pid, self._trees.get(root.pid, {root.pid}))
            for rank, root in roots.items()
            if root.is_alive()
        }

    def _tree(self, root: int, pids: "set[int]") -> Dict[str, Any]:
        cpu_s, rss = 0.0, 0
        for pid in pids:
            try:
                process = self._psutil.Process(pid)
                with process.oneshot():
                    times = process.cpu_times()
                    cpu_s += times.user + times.system
                    rss += process.memory_info().rss
            except self._psutil.Error:
                continue  # it ended while we looked
        now = time.monotonic()
        before, when = self._cpu.get(root, (cpu_s, now))
        self._cpu[root] = (cpu_s, now)
        percent = max(0.0, 100 * (cpu_s - before) / (now - when)) if now > when else 0.0
        return {"cpu_percent": round(percent, 1), "rss_bytes": rss}
