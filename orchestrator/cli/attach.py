"""Stay with a run until it ends; Ctrl-C or SIGTERM stops the run, a closed terminal does not."""

from __future__ import annotations

import time
from typing import Optional

import click

from orchestrator import monitor
from orchestrator.cli import output
from orchestrator.cli.interrupts import Interrupts, interrupts_noted
from orchestrator.cli.live import watch
from orchestrator.cli.main import INTERRUPTED
from orchestrator.errors import HostError
from orchestrator.runstate import Outcome, RunState
from orchestrator.store import Run, Store

_UNREACHABLE_S = 5.0  # how long a stop waits where nobody reaches what is left; that takes the controller 10 s to say


def follow_to_end(
    run: Run, interrupts: Interrupts, grace_s: Optional[float] = None, *, stopping: bool = False
) -> RunState:
    """Watch *run* until it is finished, passing interrupts on to it. Raises HostError.

    *grace_s* is between the SIGTERM and the SIGKILL of a first interrupt; None: as the job says. *stopping*: the run
    was asked to end just now.
    """
    passed_on = 0
    asked_at = time.monotonic() if stopping else None
    unreachable_since: Optional[float] = None
    grace = run.plan.spec.grace_s if grace_s is None else grace_s

    def pass_on(state: RunState) -> None:
        nonlocal passed_on, asked_at, unreachable_since
        count = interrupts.count
        if count > passed_on and not state.finished:
            interrupts.drain()
            first = count == 1
            if count > 2:
                raise HostError(
                    f"left {run.plan.name} while it was stopping; `ascendrun status {run.plan.name}` tells the rest"
                )
            monitor.request_stop(run, by=interrupts.last or "a signal", grace_s=grace if first else 0.0)
            passed_on = count
            asked_at = time.monotonic()
            if first:
                output.say(
                    f"stopping {run.plan.name}: SIGTERM, then SIGKILL after {grace:g} s (Ctrl-C again: SIGKILL now)"
                )

        if asked_at is None or not _is_unreachable(state):
            unreachable_since = None
        elif unreachable_since is None:
            unreachable_since = time.monotonic()
        elif time.monotonic() > unreachable_since + _UNREACHABLE_S:
            raise HostError(
                f"{run.plan.name}: cannot reach {', '.join(state.silent_hosts)}, where ranks may run on; the run's "
                f"controller keeps trying and passes the stop on: `ascendrun status {run.plan.name}` tells"
            )

    return watch(monitor.Follower(run).states(interrupts.wake), pass_on)


def _is_unreachable(state: RunState) -> bool:
    """Tell whether all that is left of a run is on hosts that nobody reaches."""
    left = {rank.host for rank in state.ranks if rank.ended_at is None}
    return not state.finished and bool(state.silent_hosts) and left <= set(state.silent_hosts)


@click.command("attach")
@click.argument("run", required=False)
def command(run: Optional[str]) -> int:
    """Watch RUN (default: the newest) to its end, as the terminal does that launched it. Ctrl-C stops the run."""
    found = Store.of_user().find(run)
    with interrupts_noted() as interrupts:
        state = follow_to_end(found, interrupts)
    show_end(found, state)
    return exit_code(state, interrupts)


def show_end(run: Run, state: RunState) -> None:
    """Print how *run* ended and, where it failed, why as far as its logs tell."""
    output.show_run(run, state)
    if state.outcome is Outcome.FAILED:
        from orchestrator.cli import explain  # a run that succeeds needs no rules

        explain.show_short(run, state)


def exit_code(state: RunState, interrupts: Interrupts) -> int:
    """Return 0 for a run that succeeded, 130 for one we were asked to stop, 1 for any other end."""
    if state.outcome is Outcome.SUCCEEDED:
        return 0
    return INTERRUPTED if interrupts.count and state.outcome is Outcome.STOPPED else 1
