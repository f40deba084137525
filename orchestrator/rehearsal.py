"""A rehearsal: the user's own job on the user's own hosts, faults put into it on purpose, and what became of each."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Optional

from orchestrator import checkpoints, drills, monitor
from orchestrator.errors import AscendrunError
from orchestrator.runstate import Outcome, RunState
from orchestrator.store import Run
from orchestrator.supervisor import abandoned, events
from orchestrator.supervisor.journal import read_events

_SETTLE_S = 20.0  # for what is ending


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong, and what should be said of it."""

    name: str
    inject: "Callable[[Run, RunState], None]"
    causes: Collection[str]  # any of these is the truth; none: the run should go on as if nothing had happened
    rank: Optional[int] = None  # the culprit, where it is one rank; -1: the last
    host: Optional[str] = None  # where the culprit is a host


@dataclass(frozen=True)
class Outturn:
    """What became of one fault. Times in s since it was injected; None: it never happened."""

    fault: str
    detected_s: Optional[float]
    named_right: bool
    said: str  # the verdict, in a sentence
    restarted_s: Optional[float]  # until the first step that was finished afterwards
    steps_lost: Optional[int]
    checkpoints_lost: int
    left: tuple[str, ...]  # processes and ranks that outlived the run
    problem: Optional[str] = None  # why the drill itself did not come off

    @property
    def passed(self) -> bool:
        well = self.named_right and self.restarted_s is not None and not self.checkpoints_lost and not self.left
        return well and self.problem is None


def signals(names: Collection[str]) -> "list[Fault]":
    """Return the faults of these *names* that a signal makes. Raises KeyError for another."""
    return [_SIGNALS[name] for name in names]


def rehearse(fault: Fault, launch: "Callable[[], Run]", *, patience_s: float, checkpoint_first: bool = True) -> Outturn:
    """Launch a run, inject *fault* after its first checkpoint, watch what follows, and end the run.

    *launch* starts the run; *patience_s* bounds each wait: for a checkpoint (a step, where the job tells of none by
    then), for detection, and for the next step.
    """
    try:
        run = launch()
    except AscendrunError as exc:
        return Outturn(fault.name, None, False, "", None, None, 0, (), f"the run did not start: {exc}")
    try:
        return _watch(fault, run, patience_s, checkpoint_first)
    except AscendrunError as exc:
        return Outturn(fault.name, None, False, "", None, None, 0, (), str(exc))
    finally:
        _end(run)


def _watch(fault: Fault, run: Run, patience_s: float, checkpoint_first: bool) -> Outturn:
    follower = monitor.Follower(run)

    def until(holds: "Callable[[RunState], bool]", seconds: float) -> "Optional[RunState]":
        """Return the first state of which *holds* is true; None where that does not come in time."""
        over = time.monotonic() + seconds
        for state in follower.states():
            if holds(state):
                return state
            if state.finished or time.monotonic() > over:
                return None
        return None

    before = None
    if checkpoint_first:
        before = until(lambda state: bool(state.checkpoints) and bool(state.lead()), patience_s)
    before = before or until(lambda state: bool(state.lead()), 1.0 if checkpoint_first else patience_s)
    if before is None:
        said = "it failed before" if follower.state().finished else f"no step within {patience_s:g} s"
        return Outturn(fault.name, None, False, "", None, None, 0, (), f"{said}: nothing to rehearse on")
    fault.inject(run, before)
    began = time.monotonic()
    until(lambda state: _noticed(run, state, before, fault), patience_s)
    seen = follower.state()
    detected_s = time.monotonic() - began if _noticed(run, seen, before, fault) else None
    restarted_s, resumed = None, None
    if detected_s is not None and not seen.finished:
        going = until(lambda state: _goes_on(state, before, seen, fault), patience_s)
        if going is not None:
            restarted_s, resumed = time.monotonic() - began, going
    state = follower.state()
    named_right, said = _named(fault, state, _last_rank(before) if fault.rank == -1 else fault.rank)
    left = _end(run)
    return Outturn(
        fault.name,
        detected_s,
        named_right,
        said,
        restarted_s,
        _steps_lost(before, resumed, fault),
        _checkpoints_lost(before, resumed, fault),
        left,
    )


def _noticed(run: Run, state: RunState, before: RunState, fault: Fault) -> bool:
    """Tell whether the run shows that something happened."""
    if fault.causes:
        return len(state.earlier) > len(before.earlier) or state.outcome is Outcome.FAILED
    return (
        state.supervisors_killed > before.supervisors_killed
        or len(_silences(run)) > 0
        or _step_of(state) > _step_of(before) + 1
    )


def _silences(run: Run) -> "list[Any]":
    return [event for event in read_events(run.run_dir.journal)[0] if event.kind == events.HOST_SILENT]


def _goes_on(state: RunState, before: RunState, noticed: RunState, fault: Fault) -> bool:
    """Tell whether a step was finished after the fault, with all hosts in sight."""
    if fault.causes:
        return state.attempt > before.attempt and bool(state.lead())
    return _step_of(state) > _step_of(noticed) and not state.silent_hosts


def _step_of(state: RunState) -> int:
    step = state.lead().get("step")
    return int(step) if isinstance(step, (int, float)) else -1


def _named(fault: Fault, state: RunState, rank: Optional[int]) -> "tuple[bool, str]":
    if not fault.causes:
        went_on = not state.earlier and state.outcome in (Outcome.RUNNING, Outcome.SUCCEEDED)
        return went_on, "the run went on" if went_on else "the run did not go on as it was"
    if not state.earlier:
        return False, "nothing was said"
    told = state.earlier[0]
    right = told.get("cause") in fault.causes
    right = right and (rank is None or told.get("rank") == rank)
    right = right and (fault.host is None or told.get("host") == fault.host)
    return right, f"{told.get('cause')}: {told.get('sentence')}"


def _steps_lost(before: RunState, resumed: Optional[RunState], fault: Fault) -> Optional[int]:
    if not fault.causes:
        return 0
    if resumed is None:
        return None
    known = checkpoints.newest_first(checkpoints.told(resumed.checkpoints))
    from_step = next((parts[0].step for parts in known if parts[0].path == resumed.resumed_from), 0)
    return max(0, _step_of(before) - from_step)


def _checkpoints_lost(before: RunState, resumed: Optional[RunState], fault: Fault) -> int:
    """Return how many checkpoints that were told of before the fault are newer than the one the run went on from."""
    if not fault.causes or resumed is None:
        return 0
    known = checkpoints.newest_first(checkpoints.told(before.checkpoints))
    everything = checkpoints.newest_first(checkpoints.told(resumed.checkpoints))
    place = next((parts[0].place for parts in everything if parts[0].path == resumed.resumed_from), (0, 0))
    return sum(parts[0].place > place for parts in known)


def _end(run: Run) -> "tuple[str, ...]":
    """End the run; return what of it is left on this machine, and the ranks that nobody could end."""
    state = monitor.current_state(run)
    if not state.finished:
        monitor.request_stop(run, by="ascendrun rehearse", grace_s=0.0)
        over = time.monotonic() + _SETTLE_S
        for latest in monitor.Follower(run).states():
            state = latest
            if time.monotonic() > over:
                break
    left = [f"pid {one.identity.pid} ({one.command})" for one in abandoned.find() if one.run == run.plan.name]
    if not state.finished:
        left += [f"rank {rank.rank_id} on {rank.host}" for rank in state.ranks if rank.ended_at is None]
    return (*left, *(f"pid {pid} cannot be ended" for pid in state.unkillable))


def _last_rank(state: RunState) -> int:
    return max(rank.rank_id for rank in state.ranks)


def _to_last_rank(number: int) -> "Callable[[Run, RunState], None]":
    def inject(run: Run, state: RunState) -> None:
        drills.strike_rank(run, _last_rank(state), number)

    return inject


def _to_supervisor(run: Run, state: RunState) -> None:
    drills.strike_supervisor(run, state.ranks[-1].host, signal.SIGKILL)


def _to_controller(run: Run, state: RunState) -> None:
    drills.strike_controller(run, signal.SIGKILL)


_SIGNALS = {
    fault.name: fault
    for fault in (
        Fault("kill", _to_last_rank(signal.SIGKILL), {"signal", "out_of_memory"}, -1),
        Fault("segv", _to_last_rank(signal.SIGSEGV), {"signal"}, -1),
        Fault("stop", _to_last_rank(signal.SIGSTOP), {"hang", "hang_in_collective"}, -1),
        Fault("supervisor", _to_supervisor, ()),
        Fault("controller", _to_controller, ()),
    )
}
FAULTS = tuple(_SIGNALS)  # that need no more than the run itself
