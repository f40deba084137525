"""`ascendrun stop`"""

from __future__ import annotations

from typing import Optional

import click

from orchestrator import monitor
from orchestrator.cli import attach, output
from orchestrator.cli.interrupts import interrupts_noted
from orchestrator.runstate import Outcome
from orchestrator.store import Store


@click.command("stop")
@click.argument("run", required=False)
@click.option(
    "--grace",
    type=click.FloatRange(0, 86_400),
    metavar="S",
    help="Seconds between SIGTERM and SIGKILL; default as the job says (10).",
)
def command(run: Optional[str], grace: Optional[float]) -> int:
    """End RUN (default: the newest) and wait until no process of it is left.

    Hosts that cannot be reached are waited for no longer than 15 s; they are told when they are back. Exit code 3 then.
    """
    found = Store.of_user().find(run)
    state = monitor.current_state(found)
    if state.finished or state.outcome is Outcome.NOT_STARTED:
        click.echo(f"{found.plan.name}: nothing to stop, {output.headline(state)}")
        return 0
    with interrupts_noted() as interrupts:
        monitor.request_stop(found, by="ascendrun stop", grace_s=grace)
        state = attach.follow_to_end(found, interrupts, grace, stopping=True)
    click.echo(f"{found.plan.name}: {output.headline(state)}")
    return 0
