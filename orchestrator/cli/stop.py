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
    help="Seconds between SIGTERM and SIGKILL; default as the job says (10), with --save as long as it takes.",
)
@click.option("--save", is_flag=True, help="Let the ranks write a checkpoint first; exit code 1 where none did.")
def command(run: Optional[str], grace: Optional[float], save: bool) -> int:
    """End RUN (default: the newest) and wait until no process of it is left.

    Hosts that cannot be reached are not waited for, but for 5 s; they are told when they are back. Exit code 3 then.
    """
    found = Store.of_user().find(run)
    state = monitor.current_state(found)
    if state.finished or state.outcome is Outcome.NOT_STARTED:
        click.echo(f"{found.plan.name}: nothing to stop, {output.headline(state)}")
        return 1 if save and state.outcome is not Outcome.SUCCEEDED else 0
    with interrupts_noted() as interrupts:
        asked_s = monitor.SAVING_GRACE_S if save and grace is None else grace
        monitor.request_stop(found, by="ascendrun stop", grace_s=asked_s)
        ended = attach.follow_to_end(found, interrupts, grace, stopping=True)
    if not save:
        click.echo(f"{found.plan.name}: {output.headline(ended)}")
        return 0
    saved = monitor.saved_at_stop(state, ended)
    if saved is None:
        click.echo(f"{found.plan.name}: {output.headline(ended)}, and no checkpoint was written")
        return 1
    click.echo(f"{found.plan.name}: {output.headline(ended)}, checkpoint {output.checkpoint(saved)}")
    return 0
