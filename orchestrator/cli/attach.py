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

_UNREACHABLE_S = 15.0  # how long a stop waits for hosts that nobody reaches


def follow_to_end(
    run: Run, interrupts: Interrupts, grace_s: Optional[float] = None, *, stopping: bool = False
) -> RunState:
    """Watch *run* until it is finished, passing interrupts on to it. Raises HostError.

    *grace_s* is between the SIGTERM and the SIGKILL of a first interrupt; None: as the job says. *stopping*: the run
    was asked to end just now.
    """
    passed_on = 0
    asked_at = time.monotonic() if stopping else None
    grace = run.plan.spec.grace_s if grace_s is None else grace_s

    def pass_on(state: RunState) -> None:
        nonlocal passed_on, asked_at
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

        if asked_at is not None and time.monotonic() > asked_at + _UNREACHABLE_S:
            _leave_unreachable(state, run.plan.name)

    return watch(monitor.Follower(run).states(interrupts.wake), pass_on)


def _leave_unreachable(state: RunState, name: str) -> None:
    """Raise HostError where all that is left of a run that is stopping is on hosts that nobody reaches."""
    left = {rank.host for rank in state.ranks if rank.ended_at is None}
    if state.finished or not state.silent_hosts or left - set(state.silent_hosts):
        return
    hosts = ", ".join(state.silent_hosts)
    raise HostError(
        f"{name}: cannot reach {hosts}, where ranks may run on; the run's controller keeps trying and passes the stop "
        f"on: `ascendrun status {name}` tells"
    )


@click.command("attach")
@click.argument("run", required=False)
def command(run: Optional[str]) -> int:
    """Watch RUN (default: the newest) to its end, as the terminal does that launched it. Ctrl-C stops the run."""
    found = Store.of_user().find(run)
    with interrupts_noted() as interrupts:
        state = follow_to_end(found, interrupts)
    output.show_run(found, state)
    return exit_code(state, interrupts)


def exit_code(state: RunState, interrupts: Interrupts) -> int:
    """Return 0 for a run that succeeded, 130 for one we were asked to stop, 1 for any other end."""
    if state.outcome is Outcome.SUCCEEDED:
        return 0
    return INTERRUPTED if interrupts.count and state.outcome is Outcome.STOPPED else 1
