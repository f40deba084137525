"""What evaluations found, on the terminal and as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

import click

from orchestrator.cli import output


def show_all(results: "Sequence[Mapping[str, Any]]", best: "Optional[Mapping[str, Any]]") -> None:
    """Print what was evaluated: the lines that programs look for, a table, and the best of the run."""
    if not results:
        return
    for result in results:
        output.show_evaluation(result)
    rows = [
        [
            output.plain(os.path.basename(str(result.get("checkpoint")))),
            output.of(result.get("epoch"), None),
            output.of(result.get("step"), None),
            output.share(result.get("top_1_accuracy")),
            output.share(result.get("top_5_accuracy")),
            output.number(result.get("loss")),
            ("best", "green") if _is_best(result, best) else "",
        ]
        for result in results
    ]
    output.table(("checkpoint", "epoch", "step", "top-1", "top-5", "loss", ""), rows, drop=("step", "epoch", "top-5"))
    if best is not None and not any(_is_best(result, best) for result in results):
        click.echo(f"best of the run, evaluated earlier: {best.get('checkpoint')} ({output.scores(best)})")


def show_classes(result: Mapping[str, Any]) -> None:
    """Print what a checkpoint got right of each class."""
    classes = result.get("per_class")
    if not isinstance(classes, list):  # the file with their names is gone
        told = result.get("per_class_accuracy")
        classes = [{"name": label, "accuracy": one} for label, one in enumerate(told if isinstance(told, list) else [])]
    rows = [
        [output.plain(str(one.get("name"))), output.of(one.get("pictures"), None), output.share(one.get("accuracy"))]
        for one in classes
        if isinstance(one, Mapping)
    ]
    click.echo(f"of each class, {output.plain(os.path.basename(str(result.get('checkpoint'))))}:")
    output.table(("class", "pictures", "top-1"), rows)


def as_json(results: "Iterable[Mapping[str, Any]]", best: "Optional[Mapping[str, Any]]") -> "list[dict[str, Any]]":
    """Return what `eval --json` prints. Fields are only ever added."""
    return [{**result, "best": _is_best(result, best)} for result in results]


def _is_best(result: Mapping[str, Any], best: "Optional[Mapping[str, Any]]") -> bool:
    return best is not None and result.get("checkpoint") == best.get("checkpoint")
