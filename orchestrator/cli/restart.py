"""`ascendrun restart`"""

from __future__ import annotations

import signal
from typing import Optional

import click

from orchestrator import drills
from orchestrator.store import Store


@click.command("restart")
@click.argument("run", required=False)
@click.option(
    "--rank",
    type=click.IntRange(0),
    metavar="N",
    help="For a drill: kill this rank, and leave the rest to the run's own policy.",
)
def command(run: Optional[str], rank: Optional[int]) -> int:
    """End the ranks of RUN (default: the newest), and begin its next attempt from the newest whole checkpoint.

    For runs with `restart:` in their job, or --max-restarts. Ranks get the job's grace to write a checkpoint first.
    """
    found = Store.of_user().find(run)
    drills.must_be_restartable(found)
    if rank is None:
        drills.ask_for_restart(found)
        click.echo(f"{found.plan.name}: its next attempt begins when its ranks have ended")
    else:
        host = drills.strike_rank(found, rank, signal.SIGKILL)
        click.echo(f"{found.plan.name}: rank {rank} on {host} was killed")
    click.echo(f"`ascendrun attach {found.plan.name}` watches")
    return 0
