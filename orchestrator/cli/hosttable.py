"""How hosts look: a table, what is wrong with each, JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Optional

import click

from orchestrator.cli import output
from orchestrator.hosts import HostReport
from orchestrator.inventory import spell_ids


def host_as_json(report: HostReport) -> "dict[str, Any]":
    """Return what `hosts --json` prints of a host. Fields are only ever added."""
    told = asdict(report)
    entry = told.pop("entry")
    return {
        "host": entry["name"],
        "answers": report.problem is None,
        **told,
        "spare": entry["spare"],
        "inventory": entry,
    }


def show_hosts(reports: Sequence[HostReport]) -> None:
    """Print a line for each host; what is wrong with those that fail goes to standard error."""
    rows = [
        [
            report.entry.name,
            report.address or report.entry.address,
            ("fails", "red") if report.problem else ("answers", "green"),
            report.python or "-",
            spell_ids(report.device_ids) if report.device_ids else "-",
            str(report.cpus or "-"),
            _milliseconds(report.connect_s),
            _milliseconds(report.answer_s),
            "spare" if report.entry.spare else "-",
        ]
        for report in reports
    ]
    heads = ("host", "address", "state", "python", "devices", "CPUs", "connect", "answer", "role")
    output.table(heads, rows, drop=("connect", "CPUs", "role"))
    failing = [report for report in reports if report.problem]
    for report in failing:
        output.say(f"{report.entry.name}: {report.problem}")
    click.echo(f"{len(reports) - len(failing)} of {len(reports)} answer")


def _milliseconds(seconds: Optional[float]) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.0f} ms"
