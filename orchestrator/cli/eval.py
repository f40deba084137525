"""`ascendrun eval`"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Optional

import click

from orchestrator import evaluate, evaluations
from orchestrator.cli import attach, output, results
from orchestrator.cli.interrupts import interrupts_noted
from orchestrator.errors import UserError
from orchestrator.runstate import Outcome
from orchestrator.store import Run, Store


@click.command("eval")
@click.argument("what", metavar="[RUN|CKPT|DIR]", required=False)
@click.option("--dataset", metavar="DIR", help="The dataset; default: the one the run was trained on.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key of the job's config for this evaluation, as in --set batch_size=128. May be repeated.",
)
@click.option(
    "--best", "mark", is_flag=True, help="Mark the best checkpoint, for export and others: best.json beside it."
)
@click.option("--per-class", is_flag=True, help="Show what the best one got right of each class.")
@click.option("--json", "as_json", is_flag=True, help="Print all results as JSON, with confusion matrices.")
def command(
    what: Optional[str],
    dataset: Optional[str],
    settings: "tuple[str, ...]",
    mark: bool,
    per_class: bool,
    as_json: bool,
) -> int:
    """Evaluate the checkpoints of a run (default: the newest), one checkpoint, or a folder of them.

    Each result is kept beside its checkpoint (STEM.eval.json, and the confusion matrix as STEM.eval.png) and in the
    run, where `status` finds it. A checkpoint that is damaged or does not fit is named, the others are evaluated, and
    the exit code is 2. One that the run replaces by a newer one meanwhile is passed over.

    The best is the one with the highest top-1, then top-5, then the lowest loss, among those of the run that were
    evaluated on the same dataset and are still there.
    """
    with interrupts_noted() as interrupts:
        evaluation = evaluate.start_evaluation(what, dataset, settings, Store.of_user(), os.environ)
        for error in evaluation.missing:
            output.say(f"not looked at: {error}")
        if evaluation.passed_over:
            output.say(
                f"evaluating {evaluation.checkpoints}; the run has checkpoints in {len(evaluation.passed_over)} more "
                f"folders, to be evaluated one by one: {', '.join(map(str, evaluation.passed_over))}"
            )
        state = attach.follow_to_end(evaluation.run, interrupts)
    refused = [result for result in state.evaluations if result.get("error")]
    scored = [result for result in state.evaluations if not result.get("error")]
    best = evaluations.best_of(evaluations.still_there(evaluations.results_of(evaluation.evaluated)))
    if as_json:
        output.print_json(results.as_json(map(evaluations.with_details, state.evaluations), best))
    else:
        results.show_all(scored, best)
        if per_class and best is not None:
            results.show_classes(evaluations.with_details(best))
    for result in refused:
        output.say(f"not evaluated: {result['error']}")
    for result in scored:
        if (kept := evaluations.kept_elsewhere(result)) is not None:
            output.say(f"the folder of {result.get('checkpoint')} cannot be written: its result is in {kept}")
    if mark and scored:
        _mark(evaluation.evaluated, best)
    bad_input = state.outcome is Outcome.FAILED and state.ranks[0].code == UserError.exit_code
    if not as_json and not (bad_input and refused):
        output.show_failure(evaluation.run, state)
    return UserError.exit_code if bad_input else attach.exit_code(state, interrupts)


def _mark(run: Run, best: "Optional[Mapping[str, Any]]") -> None:
    if best is None:
        output.say("no checkpoint is marked: the run has removed all that were evaluated")
        return
    for path, reason in evaluations.mark_best(run, best):
        output.say(f"cannot write {path}: {reason}")
