"""Stay with a run until it ends; Ctrl-C or SIGTERM stops the run, a closed terminal does not."""

from __future__ import annotations

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


def follow_to_end(run: Run, interrupts: Interrupts, grace_s: Optional[float] = None) -> RunState:
    """Watch *run* until it is finished, passing interrupts on to it. Raises HostError.

    *grace_s* is between the SIGTERM and the SIGKILL of a first interrupt; None: as the job says.
    """
    passed_on = 0
    grace = run.plan.spec.grace_s if grace_s is None else grace_s

    def pass_on(state: RunState) -> None:
        nonlocal passed_on
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
            if first:
                output.say(
                    f"stopping {run.plan.name}: SIGTERM, then SIGKILL after {grace:g} s (Ctrl-C again: SIGKILL now)"
                )

    return watch(monitor.Follower(run).states(interrupts.wake), pass_on)


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
