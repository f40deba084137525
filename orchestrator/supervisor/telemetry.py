"""What the ranks tell and cost while they run, written to the journal now and then."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, Dict, Mapping, Optional, Set

from orchestrator.supervisor import events
from orchestrator.supervisor.figures import Figures
from orchestrator.supervisor.hostplan import HostPlan
from orchestrator.supervisor.journal import Journal
from orchestrator.supervisor.process import Identity
from orchestrator.supervisor.progress import RankProgress
from orchestrator.supervisor.rundir import RunDir

_FIGURES_EVERY_S = 1.0
_FIGURES_TOLD_EVERY_S = 5.0
_SHORTEST_INTERVAL_S = 0.5
_LONGEST_INTERVAL_S = 10.0
_AGE_PER_INTERVAL = 600  # a run of ten minutes is told every second, an older one less often


class Telemetry:
    """Reads the progress of the ranks and samples their processes; facts other than steps are told at once."""

    def __init__(self, run_dir: RunDir, plan: HostPlan, journal: Journal) -> None:
        patterns = [pattern.encode() for pattern in plan.log_patterns]
        self._journal = journal
        self._progress = {
            process.rank: RankProgress(
                run_dir.progress(process.folder), run_dir.log(process.folder, process.log), patterns
            )
            for process in plan.ranks
            if process.rank is not None
        }
        self._told = Counter(event.rank for event in journal.past if event.kind in events.FROM_PROGRESS_FILE)
        self._figures: Optional[Figures] = None  # made when the ranks are up: psutil takes its time
        self._latest: Dict[int, Dict[str, Any]] = {}
        self._changed: Set[int] = set()
        self._news: Set[int] = set()
        self._begun = time.monotonic()
        self._next_write = self._begun
        self._next_sample = self._begun
        self._next_figures = self._begun

    # ── what is known of a rank ────────────────────────────────────────────────────────────────────

    def take_news(self, rank: int) -> bool:
        """Tell whether *rank* told anything since this was asked last."""
        news = rank in self._news
        self._news.discard(rank)
        return news

    def step(self, rank: int) -> Mapping[str, Any]:
        """Return the newest step of *rank*; empty where it told none."""
        return self._progress[rank].step

    def phase(self, rank: int) -> Optional[str]:
        return self._progress[rank].phase

    def cpu_percent(self, rank: int) -> Optional[float]:
        """Return the newest figure, 100 for one core; None while there is none."""
        return self._latest.get(rank, {}).get("cpu_percent")

    def nan_losses(self) -> "Dict[int, Dict[str, Any]]":
        """Return where each rank told its first loss that is no number."""
        return {rank: one.nan for rank, one in self._progress.items() if one.nan is not None}

    # ── reading and telling ────────────────────────────────────────────────────────────────────────

    def tick(self, running: Mapping[int, Identity]) -> None:
        """Look at everything; *running* names the top process of each rank that runs."""
        now = time.monotonic()
        self.read()
        if now >= self._next_sample:
            self._next_sample = now + _FIGURES_EVERY_S
            self._sample(running)
        if now >= self._next_write:
            # Days of a run must stay a few megabytes of journal.
            interval_s = min(max((now - self._begun) / _AGE_PER_INTERVAL, _SHORTEST_INTERVAL_S), _LONGEST_INTERVAL_S)
            self._next_write = now + interval_s
            self.write()

    def read(self) -> None:
        """Take in what the ranks have told since the last time, a megabyte a rank at most."""
        for rank in self._progress:
            self._read(rank)

    def read_to_end(self, rank: int) -> None:
        """Take in all that *rank*, which has ended, has told."""
        self._read(rank)
        while self._progress[rank].more:
            self._read(rank)

    def _read(self, rank: int) -> None:
        changed, facts = self._progress[rank].read()
        if changed or facts:
            self._news.add(rank)
        if changed:
            self._latest.setdefault(rank, {}).update(self._progress[rank].step)
            self._changed.add(rank)
        for fact in facts:
            kind = fact.pop("kind")
            if kind not in events.FROM_PROGRESS_FILE:
                continue
            if self._told[rank]:  # by the supervisor before us, which read the same file from its beginning
                self._told[rank] -= 1
            else:
                self._journal.append(kind, fact, rank=rank)

    def write(self) -> None:
        """Tell the newest step and figures of each rank that has news."""
        if self._changed:
            ranks = {str(rank): self._latest[rank] for rank in sorted(self._changed)}
            self._journal.append(events.PROGRESS, {"ranks": ranks})
            self._changed.clear()

    def _sample(self, running: Mapping[int, Identity]) -> None:
        if self._figures is None:
            self._figures = Figures()
            if self._figures.missing:
                self._journal.append(events.FIGURES_MISSING, {"reason": self._figures.missing})
        found = self._figures.sample(running)
        for rank, figures in found.items():
            self._latest.setdefault(rank, {}).update(figures)
        now = time.monotonic()
        if now >= self._next_figures:
            self._next_figures = now + _FIGURES_TOLD_EVERY_S
            self._changed.update(found)
