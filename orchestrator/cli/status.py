"""`ascendrun status`"""

from __future__ import annotations

from typing import Optional

import click

from orchestrator import monitor
from orchestrator.cli import output
from orchestrator.store import Store

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
        runs = [(found, monitor.current_state(found)) for found in store.recent(_RECENT)]
        output.print_json([output.run_as_json(*pair) for pair in runs]) if as_json else output.show_runs(runs)
        return 0
    found = store.find(run)
    state = monitor.current_state(found)
    output.print_json(output.run_as_json(found, state)) if as_json else output.show_run(found, state)
    return 0
