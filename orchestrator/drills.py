"""Faults on purpose, in a run under way: a signal to one of its processes, on whatever host that is."""

from __future__ import annotations

import signal

from orchestrator.errors import HostError, SpecError
from orchestrator.farhosts import FarHosts
from orchestrator.monitor import Follower, as_of
from orchestrator.runstate import RankPhase
from orchestrator.store import Run
from orchestrator.supervisor.rundir import RunDir, write_atomically
from orchestrator.supervisor.strike import SUPERVISOR, strike


def strike_rank(run: Run, rank_id: int, number: int) -> str:
    """Send a signal to a rank; return the name of its host. Raises SpecError or HostError."""
    state = Follower(run).state()
    rank = next((one for one in state.ranks if one.rank_id == rank_id), None)
    if rank is None:
        raise SpecError(
            f"run {run.plan.name} has no rank {rank_id}; it has {len(state.ranks)} (0-{len(state.ranks) - 1})"
        )
    if rank.phase is not RankPhase.RUNNING:
        raise SpecError(f"rank {rank_id} of {run.plan.name} does not run: it is {rank.phase.value}")
    _strike(as_of(run, state), rank.host, f"rank-{rank_id}", number)
    return rank.host


def strike_supervisor(run: Run, host: str, number: int) -> None:
    """Send a signal to the supervisor of a host's ranks. Raises HostError."""
    _strike(as_of(run, Follower(run).state()), host, SUPERVISOR, number)


def strike_controller(run: Run, number: int) -> None:
    """Send a signal to the process that watches over the run on this machine. Raises HostError."""
    _strike_here(run.run_dir, SUPERVISOR, number)


def ask_for_restart(run: Run) -> None:
    """Ask the controller to end all ranks and begin the next attempt. Raises OSError."""
    write_atomically(run.run_dir.restart_request, "{}\n")


def must_be_restartable(run: Run) -> None:
    """Raise SpecError for a run that nobody would start again."""
    if run.plan.spec.restart is None:
        raise SpecError(
            f"{run.plan.name} was launched without `restart:` or --max-restarts, so nobody would start it again; "
            f"`ascendrun launch … --resume {run.plan.name}` goes on from its newest checkpoint"
        )
    if Follower(run).state().finished:
        raise SpecError(f"{run.plan.name} is over; `ascendrun launch … --resume {run.plan.name}` goes on from it")


def _strike(run: Run, host: str, process: str, number: int) -> None:
    far = FarHosts.of(run.run_dir)
    there = far.by_name().get(host) if far else None
    if far is None or there is None:
        _strike_here(run.run_dir, process, number)
        return
    roads = far.roads()
    try:
        with roads.dial(there.entry) as transport:
            done = transport.run(there.words("strike", there.root, process, str(number)))
    finally:
        roads.close()
    if done.code != 0:
        raise HostError(f"{host}: {done.last_words()}")


def _strike_here(run_dir: RunDir, process: str, number: int) -> None:
    try:
        strike(run_dir, process, number)
    except OSError as exc:
        raise HostError(f"{process}: {signal.Signals(number).name} does not reach it: {exc.strerror}") from exc
