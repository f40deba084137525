"""What is kept of an evaluation: STEM.eval.json and STEM.eval.png beside STEM.ckpt."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sknet.checkpoint_file import Origin, one_line, write_whole
from sknet.errors import SknetError
from sknet.metrics import Scores
from sknet.picture import draw_confusion

VERSION = 1  # of the JSON; rises when a field changes its meaning, not when one is added


@dataclass(frozen=True)
class Kept:
    """Where the result of an evaluation lies, absolute."""

    json: Path
    png: Path | None  # None: it could not be drawn


@dataclass(frozen=True)
class Subject:
    """What was evaluated on what. *epoch* and *step* are None for a checkpoint of another program."""

    checkpoint: Path  # absolute
    sha256: str  # of the file that was evaluated
    dataset: str  # name of its folder
    origin: Origin | None
    net: str
    image_size: int  # pixels
    classes: tuple[str, ...]  # names, by label


def record(subject: Subject, scores: Scores) -> dict[str, Any]:
    """Return what STEM.eval.json says. Accuracies are shares in 0..1.

    None stands for a loss that is no number, and for the accuracy of a class without pictures.
    """
    origin = subject.origin
    return {
        "version": VERSION,
        "checkpoint": subject.checkpoint.name,
        "sha256": subject.sha256,
        "dataset": subject.dataset,
        "pictures": scores.pictures,
        "net": subject.net,
        "class_num": len(subject.classes),
        "image_size": subject.image_size,
        "epoch": origin and origin.epoch,
        "step": origin and origin.step,
        "top_1_accuracy": scores.top_1_accuracy,
        "top_5_accuracy": scores.top_5_accuracy,
        "loss": scores.loss if math.isfinite(scores.loss) else None,
        "per_class": [
            {"class": label, "name": name, "pictures": pictures, "accuracy": accuracy}
            for label, (name, pictures, accuracy) in enumerate(
                zip(subject.classes, scores.pictures_of_class, scores.accuracy_of_class)
            )
        ],
        "confusion": scores.confusion.tolist(),  # rows: true class; columns: predicted class
    }


def keep(subject: Subject, scores: Scores, work_folder: Path, say: Callable[[str], None]) -> Kept:
    """Write both files beside the checkpoint, or where that cannot be written into *work_folder*; *say* which.

    Each appears whole or not at all. Raises SknetError when neither folder takes them.
    """
    text = as_text(record(subject, scores))
    title = (
        f"{subject.checkpoint.name} on {subject.dataset}\n"
        f"top-1 {scores.top_1_accuracy:.2%} of {scores.pictures:,} pictures"
    )
    try:
        picture = draw_confusion(scores, subject.classes, title)
    except ImportError as exc:
        say(f"no picture of the confusion matrix: {exc}; pip install matplotlib")
        picture = None
    stem = subject.checkpoint.stem
    beside = subject.checkpoint.parent
    try:
        return write(beside, stem, text, picture)
    except OSError as exc:
        reason = f"cannot write beside the checkpoint ({beside}: {one_line(exc)})"
    try:
        kept = write(work_folder, stem, text, picture)
    except OSError as exc:
        raise SknetError(
            f"{reason}; nor into {work_folder} ({one_line(exc)}): the result is printed but kept nowhere"
        ) from exc
    say(f"{reason}; the result is in {work_folder}")
    return kept


def as_text(told: dict[str, Any]) -> str:
    """Return *told* as JSON that people can read: a line a field, a class and a row of the confusion matrix."""
    lines = []
    for name, value in told.items():
        if isinstance(value, list):
            rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in value)
            lines.append(f' "{name}": [\n  {rows}\n ]')
        else:
            lines.append(f' "{name}": {json.dumps(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write(folder: Path, stem: str, text: str, picture: bytes | None) -> Kept:
    """Write the files; the JSON last, as it is what others look for. Raises OSError."""
    json_path, png_path = folder / f"{stem}.eval.json", folder / f"{stem}.eval.png"
    if picture is not None:
        write_whole(png_path, lambda unfinished: put(unfinished, picture), 0o644)
    write_whole(json_path, lambda unfinished: put(unfinished, text.encode()), 0o644)
    return Kept(json_path, None if picture is None else png_path)


def put(path: str, content: bytes) -> None:
    """Write a file. Raises OSError."""
    with open(path, "wb") as file:
        file.write(content)
