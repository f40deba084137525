"""`ascendrun status`"""

from __future__ import annotations

from typing import Optional

import click

from orchestrator import evaluations, monitor
from orchestrator.cli import output
from orchestrator.errors import HostError
from orchestrator.runstate import RunState
from orchestrator.store import Run, Store

_RECENT = 20


@click.command("status")
@click.argument("run", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(run: Optional[str], as_json: bool) -> int:
    """Show the recent runs; or with RUN (a name or a folder) each of its ranks and its best checkpoint.

    A run whose supervisor was killed gets a new one, which first tells what happened meanwhile.
    """
    store = Store.of_user()
    if run is None:
        runs = [(found, _state(found)) for found in store.recent(_RECENT)]
        results = [evaluations.results_of(*pair) for pair in runs]
        bests = [evaluations.best_of(one) for one in results]
        if as_json:
            shown = [output.run_as_json(*pair, told, best) for pair, told, best in zip(runs, results, bests)]
            output.print_json(shown)
        else:
            output.show_runs([(*pair, best) for pair, best in zip(runs, bests)])
        return 0
    found = store.find(run)
    state = monitor.current_state(found)
    told = evaluations.results_of(found, state)
    best = evaluations.best_of(told)
    if as_json:
        output.print_json(output.run_as_json(found, state, told, best))
    else:
        output.show_run(found, state, best)
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
