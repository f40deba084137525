"""RunState: what the events of a run add up to. The only place that says what happened."""

from __future__ import annotations

import enum
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from orchestrator.conditions import KINDS, Conditions
from orchestrator.plan import RunPlan
from orchestrator.supervisor import events
from orchestrator.supervisor.events import Event
from orchestrator.supervisor.process import signal_name


class RankPhase(enum.Enum):
    """How far a rank is: WAITING -> RUNNING -> SUCCEEDED | FAILED | STOPPED | LOST."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # it ended by itself and not with 0, or by a signal that was not ours
    STOPPED = "stopped"  # it ended after it was told to
    LOST = "lost"  # it is gone, and nobody recorded how it ended


class Outcome(enum.Enum):
    """What became of a run. FAILED is known at the first failing rank, before its peers are down."""

    NOT_STARTED = "not started"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class RankState:
    rank_id: int
    host: str = ""
    phase: RankPhase = RankPhase.WAITING
    pid: Optional[int] = None
    started_at: Optional[float] = None  # s since 1970
    ended_at: Optional[float] = None
    started_mono: Optional[float] = None  # monotonic clock of its host
    ended_mono: Optional[float] = None
    ended_seq: Optional[int] = None  # number of the event that told
    code: Optional[int] = None
    signal: Optional[int] = None
    error: Optional[str] = None
    tail: tuple[str, ...] = ()  # the last lines of its log, where it failed
    errors: tuple[str, ...] = ()  # the last lines of it that tell of errors, however far up
    program_phase: Optional[str] = None  # what the program says it does: compile, train, …
    latest: Mapping[str, Any] = field(default_factory=dict)  # newest step and figures
    cpu_s: Optional[float] = None
    peak_rss_bytes: Optional[int] = None
    # What its supervisor noticed; each is the data of the event of that name, None: nothing of the kind.
    hang: Optional[Mapping[str, Any]] = None
    stacks: Optional[Mapping[str, Any]] = None
    out_of_memory: Optional[Mapping[str, Any]] = None
    nan_loss: Optional[Mapping[str, Any]] = None
    straggler: Optional[Mapping[str, Any]] = None

    def ending(self) -> str:
        """Say how it ended: `exit code 3`, `SIGKILL`; empty while it has not."""
        if self.error:
            return f"could not start: {self.error}"
        if self.signal is not None:
            return signal_name(self.signal)
        if self.code is not None:
            return f"exit code {self.code}"
        return "unknown: it and its keeper were killed" if self.phase is RankPhase.LOST else ""


@dataclass(frozen=True)
class RunState:
    outcome: Outcome
    finished: bool  # no process of the run is left
    ranks: tuple[RankState, ...]
    started_at: Optional[float] = None
    ended_at: Optional[float] = None
    duration_s: Optional[float] = None  # by the host's monotonic clock, up to the last event
    first_failure: Optional[int] = None  # rank that failed first
    stopping: bool = False
    stopped_by: Optional[str] = None
    stops: Mapping[str, float] = field(default_factory=dict)  # when each host began to end its ranks, by its own clock
    signals_sent: tuple[int, ...] = ()  # by us: a rank that ended by another one did not end because we told it to
    scheduler_failure: Optional[Mapping[str, Any]] = None  # how MindSpore's scheduler ended before any rank
    supervisors_killed: int = 0
    swept: tuple[int, ...] = ()  # pids of processes that ranks had left behind
    unkillable: tuple[int, ...] = ()  # pids of those that could not be ended
    checkpoints: tuple[Mapping[str, Any], ...] = ()  # path, epoch, step, rank; oldest first
    evaluations: tuple[Mapping[str, Any], ...] = ()
    silent_hosts: Mapping[str, str] = field(default_factory=dict)  # why each cannot be reached, by name
    lost_hosts: tuple[str, ...] = ()  # given up in this attempt
    attempt: int = 1
    resumed_from: Optional[str] = None  # the checkpoint that this attempt went on from
    earlier: tuple[Mapping[str, Any], ...] = ()  # what `attempt_ended` told of each
    restart_at: Optional[float] = None  # s since 1970: between two attempts
    conditions: Conditions = field(default_factory=Conditions)  # of hosts and devices
    last_seq: int = 0

    def rank(self, rank_id: int) -> RankState:
        return next(rank for rank in self.ranks if rank.rank_id == rank_id)

    def lead(self) -> Mapping[str, Any]:
        """Return the newest step of the rank that is least far; empty while no rank told of one."""
        told = [rank.latest for rank in self.ranks if isinstance(rank.latest.get("step"), (int, float))]
        return min(told, key=_how_far, default={})


def _how_far(latest: Mapping[str, Any]) -> "tuple[float, float]":
    epoch = latest.get("epoch")
    return (epoch if isinstance(epoch, (int, float)) else 0, latest["step"])


def initial_state(plan: RunPlan) -> RunState:
    return RunState(Outcome.NOT_STARTED, False, tuple(RankState(rank.rank_id, rank.host) for rank in plan.ranks))


def fold(state: RunState, new: Iterable[Event]) -> RunState:
    """Return *state* after the events *new*, oldest first. Unknown kinds change nothing."""
    for event in new:
        if event.seq <= state.last_seq:
            continue  # told before
        change = _FOLDS.get(event.kind)
        state = replace(change(state, event) if change else state, last_seq=event.seq)
        if state.started_at is not None and not state.finished:
            state = replace(state, duration_s=_since_start(state, event))
    return state


def _since_start(state: RunState, event: Event) -> float:
    """Return the time since the first start of a rank on the event's host: clocks of two hosts are never compared."""
    starts = [rank.started_mono for rank in state.ranks if rank.started_mono is not None and rank.host == event.host]
    since = max(0.0, event.mono - min(starts)) if starts else 0.0
    return max(since, state.duration_s or 0.0)


def _change_rank(state: RunState, rank_id: Optional[int], **changes: Any) -> RunState:
    return replace(
        state, ranks=tuple(replace(rank, **changes) if rank.rank_id == rank_id else rank for rank in state.ranks)
    )


def _run_started(state: RunState, event: Event) -> RunState:
    return replace(state, outcome=Outcome.RUNNING, started_at=event.at)


def _supervisor_adopted(state: RunState, event: Event) -> RunState:
    return replace(state, supervisors_killed=state.supervisors_killed + 1)


def _process_started(state: RunState, event: Event) -> RunState:
    return _change_rank(
        state,
        event.rank,
        phase=RankPhase.RUNNING,
        pid=event.data.get("pid"),
        started_at=event.at,
        started_mono=event.mono,
    )


def _process_exited(state: RunState, event: Event) -> RunState:
    data = event.data
    if event.rank is None:
        return _scheduler_exited(state, event)
    ended_mono = data.get("mono", event.mono)
    # The host's own stop counts: another host may have begun earlier, and one that ended before it ended by itself.
    told_to_end = event.host in state.stops and ended_mono >= state.stops[event.host]
    if data.get("code") == 0:
        phase = RankPhase.SUCCEEDED
    elif told_to_end and (data.get("signal") is None or data["signal"] in state.signals_sent):
        phase = RankPhase.STOPPED
    else:
        phase = RankPhase.FAILED
    state = _change_rank(
        state,
        event.rank,
        phase=phase,
        code=data.get("code"),
        signal=data.get("signal"),
        error=data.get("error"),
        tail=tuple(data.get("tail", ())),
        errors=tuple(data.get("errors", ())),
        ended_at=data.get("at", event.at),
        ended_mono=ended_mono,
        ended_seq=event.seq,
        cpu_s=data.get("cpu_s"),
        peak_rss_bytes=data.get("peak_rss_bytes"),
    )
    return state if state.stopping or phase is not RankPhase.FAILED else _failed(state, event.rank)


def _scheduler_exited(state: RunState, event: Event) -> RunState:
    """Its end is no rank's end, unless it fails while all ranks still need it."""
    if event.data.get("code") == 0 or state.stopping or any(rank.ended_at is not None for rank in state.ranks):
        return state
    return replace(state, scheduler_failure=event.data)


def _process_lost(state: RunState, event: Event) -> RunState:
    if event.rank is None:
        return state
    state = _change_rank(
        state,
        event.rank,
        phase=RankPhase.LOST,
        ended_at=event.at,
        ended_mono=event.mono,
        ended_seq=event.seq,
        tail=tuple(event.data.get("tail", ())),
        errors=tuple(event.data.get("errors", ())),
    )
    return state if state.stopping else _failed(state, event.rank)


def _failed(state: RunState, rank_id: int) -> RunState:
    if state.first_failure is not None:
        return state
    return replace(state, outcome=Outcome.FAILED, first_failure=rank_id)


def _progress(state: RunState, event: Event) -> RunState:
    told = event.data.get("ranks", {})
    return replace(
        state,
        ranks=tuple(
            replace(rank, latest={**rank.latest, **told[str(rank.rank_id)]}) if str(rank.rank_id) in told else rank
            for rank in state.ranks
        ),
    )


def _phase(state: RunState, event: Event) -> RunState:
    return _change_rank(state, event.rank, program_phase=event.data.get("phase"))


def _checkpoint(state: RunState, event: Event) -> RunState:
    told = {**event.data, "rank": event.rank, "host": event.host, "attempt": state.attempt}
    return replace(state, checkpoints=(*state.checkpoints, told))


def _evaluation(state: RunState, event: Event) -> RunState:
    return replace(state, evaluations=(*state.evaluations, {**event.data, "rank": event.rank}))


def _hang(state: RunState, event: Event) -> RunState:
    state = _change_rank(state, event.rank, hang=event.data)
    return state if state.stopping else replace(state, outcome=Outcome.FAILED)


def _noticed(name: str) -> "Callable[[RunState, Event], RunState]":
    """Return what keeps the data of an event in the field *name* of its rank."""
    return lambda state, event: _change_rank(state, event.rank, **{name: event.data})


def _stacks(state: RunState, event: Event) -> RunState:
    """Keep what is known of a rank's stack: a later event adds to an earlier one."""
    if event.rank is None or all(rank.rank_id != event.rank for rank in state.ranks):
        return state
    return _change_rank(state, event.rank, stacks={**(state.rank(event.rank).stacks or {}), **event.data})


def _straggler_over(state: RunState, event: Event) -> RunState:
    return _change_rank(state, event.rank, straggler=None)


def _conditions(state: RunState, event: Event) -> RunState:
    return replace(state, conditions=state.conditions.after(event))


def _stopping(state: RunState, event: Event) -> RunState:
    outcome = state.outcome
    if event.data.get("cause") == "scheduler_failed" and not state.stopping:
        outcome = Outcome.FAILED
    return replace(
        state,
        outcome=outcome,
        stopping=True,
        stopped_by=event.data.get("by"),
        stops={event.host: event.mono, **state.stops},
        signals_sent=(signal.SIGTERM, *((signal.SIGABRT,) if event.data.get("aborted") else ())),
    )


def _killing(state: RunState, event: Event) -> RunState:
    return replace(state, signals_sent=(*state.signals_sent, signal.SIGKILL))


def _swept(state: RunState, event: Event) -> RunState:
    return replace(state, swept=(*state.swept, *event.data.get("pids", ())))


def _unkillable(state: RunState, event: Event) -> RunState:
    return replace(state, unkillable=tuple(event.data.get("pids", ())))


def _host_silent(state: RunState, event: Event) -> RunState:
    told = {str(event.data.get("host")): str(event.data.get("reason", ""))}
    return replace(state, silent_hosts={**state.silent_hosts, **told})


def _host_back(state: RunState, event: Event) -> RunState:
    back = event.data.get("host")
    return replace(state, silent_hosts={name: why for name, why in state.silent_hosts.items() if name != back})


def _host_lost(state: RunState, event: Event) -> RunState:
    return replace(state, lost_hosts=(*state.lost_hosts, str(event.data.get("host"))))


def _attempt_ended(state: RunState, event: Event) -> RunState:
    wait_s = event.data.get("wait_s")
    at = event.at + wait_s if event.data.get("restart") and isinstance(wait_s, (int, float)) else None
    return replace(state, earlier=(*state.earlier, event.data), restart_at=at)


def _attempt_started(state: RunState, event: Event) -> RunState:
    """Begin anew, with the ranks that the new attempt has; what the run has brought so far stays."""
    told = [(rank, host) for rank, host in event.data.get("ranks", ())]
    return RunState(
        Outcome.RUNNING,
        False,
        tuple(RankState(rank, host) for rank, host in told) or tuple(RankState(one.rank_id) for one in state.ranks),
        started_at=state.started_at,
        duration_s=state.duration_s,
        supervisors_killed=state.supervisors_killed,
        swept=state.swept,
        checkpoints=state.checkpoints,
        evaluations=state.evaluations,
        attempt=int(event.data.get("attempt", state.attempt + 1)),
        resumed_from=event.data.get("resume"),
        earlier=state.earlier,
        conditions=state.conditions.of_next_attempt(),
    )


def _run_finished(state: RunState, event: Event) -> RunState:
    outcome = state.outcome
    if outcome is not Outcome.FAILED:
        outcome = Outcome.STOPPED if state.stopping else Outcome.SUCCEEDED
    return replace(state, finished=True, outcome=outcome, ended_at=event.at, duration_s=_since_start(state, event))


_FOLDS = {
    events.RUN_STARTED: _run_started,
    events.SUPERVISOR_ADOPTED: _supervisor_adopted,
    events.PROCESS_STARTED: _process_started,
    events.PROCESS_EXITED: _process_exited,
    events.PROCESS_LOST: _process_lost,
    events.PROGRESS: _progress,
    events.PHASE: _phase,
    events.CHECKPOINT: _checkpoint,
    events.EVALUATION: _evaluation,
    events.HANG: _hang,
    events.STACKS: _stacks,
    events.OUT_OF_MEMORY: _noticed("out_of_memory"),
    events.NAN_LOSS: _noticed("nan_loss"),
    events.STRAGGLER: _noticed("straggler"),
    events.STRAGGLER_OVER: _straggler_over,
    **dict.fromkeys(KINDS, _conditions),
    events.STOPPING: _stopping,
    events.KILLING: _killing,
    events.SWEPT: _swept,
    events.UNKILLABLE: _unkillable,
    events.RUN_FINISHED: _run_finished,
    events.HOST_SILENT: _host_silent,
    events.HOST_BACK: _host_back,
    events.HOST_LOST: _host_lost,
    events.ATTEMPT_ENDED: _attempt_ended,
    events.ATTEMPT_STARTED: _attempt_started,
}
