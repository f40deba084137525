"""How datasets look on the terminal: a download on its way, what a survey found."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from orchestrator.cli.output import duration, show_line, size, table

if TYPE_CHECKING:  # what speaks HTTP is needed by one verb only
    from orchestrator.download import Transfer
    from orchestrator.records import Survey


def transfer_line(transfer: Transfer) -> str:
    """Return how far a download is, in one line: bytes, rate, time left."""
    share = f" of {size(transfer.total_bytes)}" if transfer.total_bytes else ""
    parts = [size(transfer.done_bytes) + share]
    if transfer.bytes_per_s is not None:
        parts.append(f"{size(transfer.bytes_per_s)}/s")
    if transfer.left_s is not None:
        parts.append(f"{duration(transfer.left_s)} left")
    return "  ".join(parts)


def survey_as_json(folder: str, layout: str, survey: Survey) -> "dict[str, Any]":
    """Return what `data check --json` prints. Fields are only ever added."""
    return {"folder": folder, "layout": layout, "fine": not survey.damages, **asdict(survey)}


def show_survey(folder: str, survey: Survey) -> None:
    """Print the pictures of each class, then the warnings, then what is damaged."""
    rows = [
        [str(label), *(f"{part.classes[label]:,}" for part in survey.parts)]
        for label in range(len(survey.parts[0].classes))
    ]
    rows.append(["all", *(f"{part.pictures:,}" for part in survey.parts)])
    table(("class", *(part.name for part in survey.parts)), rows)
    for warning in survey.warnings:
        show_line(f"warning: {warning}")
    for damage in survey.damages:
        where = ""
        if damage.record is not None:
            others = f" and {damage.count - 1:,} more of this file" * (damage.count > 1)
            where = f"record {damage.record:,}{others}: "
        show_line(f"damaged: {damage.file}: {where}{damage.problem}")
    show_line(f"{folder}: {'damaged' if survey.damages else 'fine'}")
