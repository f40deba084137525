"""`ascendrun eval`"""

from __future__ import annotations

import os
from typing import Optional

import click

from orchestrator import evaluate
from orchestrator.cli import attach, output
from orchestrator.cli.interrupts import interrupts_noted
from orchestrator.store import Store


@click.command("eval")
@click.argument("what", metavar="[RUN|CKPT|DIR]", required=False)
@click.option("--dataset", metavar="DIR", help="The dataset; default: the one the run was trained on.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def command(what: Optional[str], dataset: Optional[str], as_json: bool) -> int:
    """Evaluate the checkpoints of a run (default: the newest), one checkpoint, or a folder of them."""
    with interrupts_noted() as interrupts:
        run = evaluate.start_evaluation(what, dataset, Store.of_user(), os.environ)
        state = attach.follow_to_end(run, interrupts)
    if as_json:
        output.print_json(list(state.evaluations))
    else:
        for evaluation in state.evaluations:
            output.show_evaluation(evaluation)
        output.show_failure(run, state)
    return attach.exit_code(state, interrupts)
