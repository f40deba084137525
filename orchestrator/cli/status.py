"""`ascendrun status`"""

from __future__ import annotations

from typing import Optional

import click

from orchestrator import monitor
from orchestrator.cli import output
from orchestrator.errors import HostError
from orchestrator.runstate import RunState
from orchestrator.store import Run, Store

_RECENT = 20


@click.command("status")
@click.argument("run", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(run: Optional[str], as_json: bool) -> int:
    """Show the recent runs; or with RUN (a name or a folder) each of its ranks.

    A run whose supervisor was killed gets a new one, which first tells what happened meanwhile.
    """
    store = Store.of_user()
    if run is None:
        runs = [(found, _state(found)) for found in store.recent(_RECENT)]
        output.print_json([output.run_as_json(*pair) for pair in runs]) if as_json else output.show_runs(runs)
        return 0
    found = store.find(run)
    state = monitor.current_state(found)
    output.print_json(output.run_as_json(found, state)) if as_json else output.show_run(found, state)
    elsewhere = monitor.lives_elsewhere(found, state)
    if elsewhere is not None:
        output.say(f"this run lives on {elsewhere}; from here only what it has written so far can be told")
    return 0


def _state(run: Run) -> RunState:
    """Return the state of one of many: a run in trouble must not hide the others."""
    try:
        return monitor.current_state(run)
    except HostError as exc:
        output.say(f"{run.plan.name}: {exc}")
        return monitor.Follower(run).state()
