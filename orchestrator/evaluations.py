"""What the evaluations of a run found, and which checkpoint is the best: the one place that brings them together.

Each evaluation is a run of its own in `evals/`, and its journal says what each checkpoint scored. Nothing is copied
from there into the journal of the run that was evaluated, which may be over, or written to by its own supervisor.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from orchestrator.errors import AscendrunError
from orchestrator.models import BEST
from orchestrator.monitor import Follower
from orchestrator.runstate import RunState
from orchestrator.store import Run
from orchestrator.supervisor.progress import open_regular
from orchestrator.supervisor.rundir import write_atomically

MARK_VERSION = 1
_MARKED = ("sha256", "epoch", "step", "top_1_accuracy", "top_5_accuracy", "loss", "pictures", "dataset")
_DETAILS = ("per_class", "confusion")
_MOST_BYTES = 1 << 24  # a confusion matrix of 256 classes has less than 1 MB


def results_of(run: Run, state: Optional[RunState] = None) -> "list[dict[str, Any]]":
    """Return what each checkpoint of *run* scored, by its newest evaluation, in the order of evaluation.

    Each is as the program told it (docs/jobs.md), with its `dataset`. *state* is that of the run, if known: programs
    may evaluate while they train.
    """
    state = state or Follower(run).state()
    found = [{**result, "dataset": run.plan.dataset} for result in state.evaluations]
    for evaluation in _evaluations(run):
        told = Follower(evaluation).state().evaluations
        found.extend({**result, "dataset": evaluation.plan.dataset} for result in told)
    newest: "list[dict[str, Any]]" = []
    for result in found:
        if not result.get("error"):
            newest = [other for other in newest if not _same_checkpoint(other, result)] + [result]
    return newest


def _evaluations(run: Run) -> "list[Run]":
    """Return the evaluations of *run*, oldest first."""
    try:
        folders = sorted(run.run_dir.evals.iterdir())
    except OSError:
        return []
    found = []
    for folder in folders:
        try:
            found.append(Run.read(folder))
        except AscendrunError:
            continue  # an evaluation that never began; a file
    return sorted(found, key=lambda evaluation: evaluation.plan.created_at)


def _same_checkpoint(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two results are of one file: at the same place, or in a collected copy of the run."""
    paths = [str(result.get("checkpoint")) for result in (one, other)]
    if paths[0] == paths[1]:
        return one.get("checkpoint") is not None
    content = one.get("sha256")
    names = [os.path.basename(path) for path in paths]
    return content is not None and content == other.get("sha256") and names[0] == names[1]


def best_of(results: "Sequence[Mapping[str, Any]]") -> "Optional[Mapping[str, Any]]":
    """Return the best of *results*: highest top-1, then top-5, then lowest loss, then the newest checkpoint.

    Only what was scored on one dataset can be compared: the one of the newest result. None where nothing was scored.
    """
    scored = [result for result in results if _number(result, "top_1_accuracy") is not None]
    comparable = [result for result in scored if result.get("dataset") == scored[-1].get("dataset")]
    return max(reversed(comparable), key=_merit, default=None)  # of equals the one evaluated last


def _merit(result: Mapping[str, Any]) -> "tuple[float, ...]":
    loss = _number(result, "loss")
    figures = (_number(result, name) for name in ("top_1_accuracy", "top_5_accuracy", "epoch", "step"))
    top_1, top_5, epoch, step = (float("-inf") if figure is None else figure for figure in figures)
    return top_1, top_5, float("-inf") if loss is None else -loss, epoch, step


def _number(result: Mapping[str, Any], name: str) -> Optional[float]:
    value = result.get(name)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def still_there(results: "Iterable[Mapping[str, Any]]") -> "list[Mapping[str, Any]]":
    """Return the results whose checkpoint has not been removed since."""
    return [result for result in results if os.path.isfile(str(result.get("checkpoint")))]


def kept_elsewhere(result: Mapping[str, Any]) -> Optional[str]:
    """Return the file of a result that could not be kept beside its checkpoint; None for one that was."""
    kept, checkpoint = result.get("json"), result.get("checkpoint")
    if not isinstance(kept, str) or not isinstance(checkpoint, str):
        return None
    return kept if os.path.dirname(kept) != os.path.dirname(checkpoint) else None


def mark_best(run: Run, best: Mapping[str, Any]) -> "list[tuple[Path, str]]":
    """Write `best.json` beside the checkpoint of the result *best*, and into the run's `evals/`.

    `ascendrun export` and whoever resumes find it there. A mark that an earlier evaluation left in another folder goes.
    Returns the files that could not be written, and why.
    """
    checkpoint = Path(str(best["checkpoint"]))
    content = {"version": MARK_VERSION, "checkpoint": checkpoint.name, "path": str(checkpoint)}
    text = json.dumps({**content, **{name: best.get(name) for name in _MARKED}}, indent=1) + "\n"
    central = run.run_dir.evals / BEST
    before = _read_object(central).get("path")
    failed = []
    for path in (checkpoint.parent / BEST, central):
        try:
            write_atomically(path, text)
        except OSError as exc:
            failed.append((path, exc.strerror or str(exc)))
    if isinstance(before, str) and Path(before).parent != checkpoint.parent:
        stale = Path(before).parent / BEST
        try:
            stale.unlink()
        except FileNotFoundError:
            pass
        except OSError as exc:
            failed.append((stale, exc.strerror or str(exc)))
    return failed


def with_details(result: Mapping[str, Any]) -> "dict[str, Any]":
    """Return a result with its classes and its confusion matrix, where the file it names still has them."""
    whole = _read_object(Path(str(result["json"]))) if isinstance(result.get("json"), str) else {}
    if not whole or whole.get("sha256") != result.get("sha256"):  # another evaluation may have written over it
        return dict(result)
    return {**result, **{name: whole[name] for name in _DETAILS if name in whole}}


def _read_object(path: Path) -> "dict[str, Any]":
    """Return the JSON object in a file; an empty one where there is none."""
    try:
        with open_regular(path) as file:
            value = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
