"""What the supervisor watches for while ranks run: hangs, stragglers, losses that are no number, memory, the disk."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Set

from orchestrator.supervisor import events
from orchestrator.supervisor.hang import Hang, Hangs, Look
from orchestrator.supervisor.hostplan import HostPlan
from orchestrator.supervisor.journal import Journal
from orchestrator.supervisor.memory import Memory
from orchestrator.supervisor.process import Identity, read_stat
from orchestrator.supervisor.rundir import RunDir
from orchestrator.supervisor.stragglers import Stragglers
from orchestrator.supervisor.telemetry import Telemetry
from orchestrator.supervisor.vitals import Vitals

if TYPE_CHECKING:  # a run in which nothing hangs needs none
    from orchestrator.supervisor.stacks import Stacks

_LONGEST_LOOK_S = 3.0  # while we were stopped, or starved, ranks may have told what we have not read yet
_BUSY_PERCENT = 10.0  # of a core
_QUIET_S = 10.0  # ranks that were quiet so long when one failed may have waited for another one
_FULL_BYTES = 1 << 20  # no checkpoint fits, and soon no log line
_LOW_SHARE, _LOW_BYTES = 0.05, 20e9  # the disk is nearly full when it has less than both
_ENOUGH = 1.2  # times as much: it is not any more


class Watching:
    """Looks at the ranks at each tick, and writes into the journal what it finds."""

    def __init__(self, run_dir: RunDir, plan: HostPlan, journal: Journal) -> None:
        self.telemetry = Telemetry(run_dir, plan, journal)
        self.vitals = Vitals(run_dir, plan, journal)
        plans = {process.rank: process for process in plan.ranks if process.rank is not None}
        self._run_dir = run_dir
        self._plans = plans
        self._stacks: Optional[Stacks] = None
        self._journal = journal
        self._memory = Memory()
        self._hangs = Hangs(hang_after_s=plan.hang_after_s, ranks_elsewhere=plan.ranks_elsewhere)
        self._stragglers = Stragglers()
        self._logs = {rank: run_dir.log(process.folder, process.log) for rank, process in plans.items()}
        self._log_bytes: Dict[int, int] = {}
        self._aborted: Set[int] = set()
        self._nan_told = {event.rank for event in journal.past if event.kind == events.NAN_LOSS}
        self._last_look = time.monotonic()
        disk = [event.kind for event in journal.past if event.kind in (events.DISK_LOW, events.DISK_LOW_OVER)]
        self._disk_is_low = disk[-1:] == [events.DISK_LOW]
        self._disk_is_full = False

    # ── while ranks run ────────────────────────────────────────────────────────────────────────────

    def tick(self, running: Mapping[int, Identity]) -> List[Hang]:
        """Look at everything; return the ranks that hang. *running* names the top process of each rank that runs."""
        self.telemetry.tick(running)
        self._tell_nan()
        self._tell_stragglers(running)
        self._tell_disk()
        self.vitals.tick()
        now = time.monotonic()
        elapsed_s, self._last_look = min(now - self._last_look, _LONGEST_LOOK_S), now
        return self._hangs.look(elapsed_s, {rank: self._look(rank, identity) for rank, identity in running.items()})

    def tell_hangs(self, found: List[Hang]) -> None:
        self.telemetry.write()
        now = time.monotonic()
        for hang in found:
            step = self.telemetry.step(hang.rank)
            data = {
                "phase": hang.phase,
                "quiet_s": hang.quiet_s,
                "limit_s": hang.limit_s,
                "suspended": hang.suspended,
                "since_mono": round(now - hang.quiet_s, 3),
                "epoch": step.get("epoch"),
                "step": step.get("step"),
            }
            self._journal.append(events.HANG, data, rank=hang.rank)

    def peers_waited(self) -> bool:
        """Tell whether all ranks were quiet for long: one of those that run may be what another failed of."""
        return self._hangs.quiet_s() >= _QUIET_S

    def started(self, rank: int, identity: Identity) -> None:
        self._memory.note(rank, identity.pid)

    def ended(self, rank: int, identity: Optional[Identity], ending: Mapping[str, Any], *, by_us: bool) -> None:
        """Tell what is to be known of the end of a rank; *by_us*: it was SIGKILLed by us."""
        self.telemetry.read_to_end(rank)
        self._tell_nan()
        self.telemetry.write()
        if identity is not None and not by_us:
            found = self._memory.of_end(rank, identity.pid, ending)
            if found is not None:
                self._journal.append(events.OUT_OF_MEMORY, found, rank=rank)
        if rank in self._aborted and self._stacks is not None:
            stack = self._stacks.from_log(rank)
            if stack is not None:
                self._journal.append(events.STACKS, stack, rank=rank)

    # ── stacks ─────────────────────────────────────────────────────────────────────────────────────

    def begin_stacks(self, running: Mapping[int, Identity]) -> None:
        """Begin to take the stacks of *running*; `stacks_taken` tells when they are there."""
        from orchestrator.supervisor.stacks import Stacks

        self._stacks = Stacks(self._run_dir, self._plans)
        self._stacks.begin(running, {rank: self._busy(rank) for rank in running})

    def stacks_taken(self) -> bool:
        return self._stacks is None or self._stacks.done()

    def tell_stacks(self) -> List[int]:
        """Tell the stacks that were taken; return the ranks whose stack is not known by that."""
        taken = self._stacks.taken() if self._stacks is not None else {}
        for rank, facts in taken.items():
            self._journal.append(events.STACKS, facts, rank=rank)
        return [rank for rank, facts in taken.items() if "frames" not in facts]

    def abort(self, rank: int, identity: Identity) -> None:
        """End a rank so that it writes its stack into its log."""
        from orchestrator.supervisor.stacks import abort

        self._aborted.add(rank)
        abort(identity)

    # ── looks ──────────────────────────────────────────────────────────────────────────────────────

    def _look(self, rank: int, identity: Identity) -> Look:
        stat = read_stat(identity.pid)
        try:
            size = os.stat(self._logs[rank]).st_size
        except OSError:
            size = 0
        logged, self._log_bytes[rank] = size != self._log_bytes.get(rank, 0), size
        state = stat.state if stat is not None else ""
        return Look(
            told=self.telemetry.take_news(rank),
            logged=logged,
            busy=True if state in ("R", "D") else self._busy(rank),
            suspended=state == "T",
            phase=self.telemetry.phase(rank),
            step=self.telemetry.step(rank),
        )

    def _busy(self, rank: int) -> Optional[bool]:
        percent = self.telemetry.cpu_percent(rank)
        return None if percent is None else percent >= _BUSY_PERCENT

    def _tell_nan(self) -> None:
        for rank, place in self.telemetry.nan_losses().items():
            if rank not in self._nan_told:
                self._nan_told.add(rank)
                self._journal.append(events.NAN_LOSS, place, rank=rank)

    def _tell_stragglers(self, running: Mapping[int, Identity]) -> None:
        for change in self._stragglers.look({rank: self.telemetry.step(rank) for rank in running}):
            if not change.slow:
                self._journal.append(events.STRAGGLER_OVER, rank=change.rank)
                continue
            factor = round(change.step_s / change.median_s, 2)
            data = {"factor": factor, "step_s": change.step_s, "median_s": change.median_s}
            self._journal.append(events.STRAGGLER, data, rank=change.rank)

    def _tell_disk(self) -> None:
        try:
            disk = os.statvfs(self._run_dir.root)
        except OSError:
            return  # the folder was removed
        free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        least = min(_LOW_BYTES, _LOW_SHARE * total)
        is_full = free < _FULL_BYTES
        if free < least and (not self._disk_is_low or (is_full and not self._disk_is_full)):
            self._disk_is_low, self._disk_is_full = True, is_full
            self._journal.append(events.DISK_LOW, {"free_bytes": free, "total_bytes": total})
        elif self._disk_is_low and free > _ENOUGH * least:
            self._disk_is_low = self._disk_is_full = False
            self._journal.append(events.DISK_LOW_OVER, {"free_bytes": free, "total_bytes": total})
