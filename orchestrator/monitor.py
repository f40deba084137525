"""Watch a run: follow its journal, see that it is supervised, ask it to stop."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from orchestrator.runstate import Outcome, RunState, fold, initial_state
from orchestrator.store import Run
from orchestrator.supervisor import ownership
from orchestrator.supervisor.journal import read_events
from orchestrator.supervisor.linux import Watcher
from orchestrator.supervisor.process import Place, send_signal
from orchestrator.supervisor.rundir import write_atomically
from orchestrator.transport import local

_LOOK_EVERY_S = 1.0  # even without news: the supervisor itself may have been killed
_SETTLE_S = 2.0
SAVING_GRACE_S = 86_400.0  # as long as it takes: a second request may still shorten it
_ASKED_TO_END = 75  # exit code of a rank that kept a checkpoint when it was asked to end


class Follower:
    """Folds the journal of a run as it grows."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._state = initial_state(run.plan)
        self._offset = 0

    def state(self) -> RunState:
        """Return the state as of now."""
        events, self._offset = read_events(self.run.run_dir.journal, self._offset)
        self._state = fold(self._state, events)
        return self._state

    def states(self, *wake: int) -> Iterator[RunState]:
        """Yield the state now, at each news and at least each second, until the run is finished.

        A file descriptor in *wake* that becomes readable counts as news.
        Where the supervisor was killed another one is started. Raises HostError where that fails.
        """
        watcher = Watcher()
        watcher.add(self.run.run_dir.root)
        try:
            while True:
                state = self.state()
                yield state
                if state.finished:
                    return
                ensure_supervised(self.run, state)
                watcher.wait(_LOOK_EVERY_S, *wake)
        finally:
            watcher.close()


def as_of(run: Run, state: RunState) -> Run:
    """Return *run* with the plan of the attempt that *state* tells of. Raises RunNotFoundError."""
    return run if run.plan.attempt == state.attempt else Run.read(run.run_dir.root)


def ensure_supervised(run: Run, state: RunState) -> bool:
    """Start a supervisor where a run under way has lost its own; tell whether one was needed.

    Raises HostError where it cannot be started.
    """
    if state.finished or state.outcome is Outcome.NOT_STARTED:
        return False
    owner = ownership.owner(run.run_dir)
    if (owner is not None and owner.is_alive()) or not ownership.may_adopt(run.run_dir):
        ownership.wake(run.run_dir)
        return False
    if Follower(run).state().finished:  # it ended between the two looks
        return False
    start_watch(run)
    return True


def start_watch(run: Run) -> None:
    """Start what watches over *run*: a supervisor, or the controller of far hosts.

    Raises HostError, OSError, or UserError for a run or an SSH configuration that cannot be read.
    """
    if not run.run_dir.hosts.exists():
        local.start_watch(run.run_dir)
        return
    from orchestrator.controller import control  # a run on this machine needs none
    from orchestrator.farhosts import FarHosts

    far = FarHosts.of(run.run_dir)
    assert far is not None, "the record is there"
    roads = far.roads()
    roads.unlock([host.entry for host in far.hosts])  # it is forked from us, and has no terminal to ask at
    local.start_watch(run.run_dir, lambda run_dir, ready: control(run_dir, ready, roads=roads))


def lives_elsewhere(run: Run, state: RunState) -> Optional[str]:
    """Return the machine on which an unfinished run lives, if it is not this one (or another container of it)."""
    owner = ownership.owner(run.run_dir)
    if state.finished or owner is None or owner.place == Place.here() or ownership.may_adopt(run.run_dir):
        return None
    return owner.place.host


def current_state(run: Run) -> RunState:
    """Return the state of *run*, after seeing to it that somebody watches over it.

    Raises HostError where a supervisor is needed and cannot be started.
    """
    follower = Follower(run)
    state = follower.state()
    if ensure_supervised(run, state):
        deadline = time.monotonic() + _SETTLE_S
        for state in follower.states():
            all_ended = all(rank.ending() or rank.ended_at is not None for rank in state.ranks)
            if not all_ended or time.monotonic() > deadline:
                break
    return state


def saved_at_stop(before: RunState, after: RunState) -> "Optional[Mapping[str, Any]]":
    """Return the checkpoint that a run wrote when it was asked to end, as it told of it; None where it wrote none.

    *before* is its state when it was asked, *after* when it has ended.
    """
    told = len(after.checkpoints) > len(before.checkpoints)
    if after.checkpoints and (told or any(rank.code == _ASKED_TO_END for rank in after.ranks)):
        return after.checkpoints[-1]
    return None


def request_stop(run: Run, *, by: str, grace_s: Optional[float] = None) -> None:
    """Ask the supervisor of *run* to end it; a run that lost its supervisor gets one that does.

    *grace_s* None: as the job says. Raises HostError or OSError.
    """
    grace_s = run.plan.spec.grace_s if grace_s is None else grace_s
    state = Follower(run).state()
    try:
        write_atomically(run.run_dir.stop_request, json.dumps({"grace_s": grace_s, "by": by}))
    except OSError:
        # The disk is full: a signal says the same, but for the grace.
        owner = ownership.owner(run.run_dir)
        if owner is None or not owner.is_alive() or not send_signal(owner.identity.pid, signal.SIGTERM):
            raise
    ensure_supervised(run, state)
