"""How doctor's findings look: a table of hosts and checks, what is wrong with remedies, commands, JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from orchestrator.checks.baseline import lasting
from orchestrator.checks.pairs import LARGE_BYTES, spell, usual
from orchestrator.cli import output
from orchestrator.doctor import Report
from orchestrator.findings import Severity

_WORDS = {"pass": ("ok", "green"), "warning": ("warning", "yellow"), "failure": ("FAILS", "red"), None: ("-", None)}


def as_json(report: Report) -> "dict[str, Any]":
    """Return what `doctor --json` prints. Fields are only ever added."""
    return {
        "failed": report.failed,
        "hosts": [
            {
                "host": name,
                "checks": {check: report.state(name, check) for check in report.checks},
                "changes": report.changes.get(name, []),
                "lasting": lasting(facts) if (facts := report.facts.get(name)) is not None else None,
                "devices": [asdict(device) for device in facts.info.devices] if facts is not None else [],
                "ports": [asdict(port) for port in facts.ports.values()] if facts is not None else [],
                "npu_smi": {"understood": facts.info.understood, "text": facts.info.raw} if facts is not None else None,
                "told": {key: value for key, value in facts.told.items() if key not in ("npu", "hccn")}
                if facts is not None
                else None,
            }
            for name in report.hosts
        ],
        "pairs": [{**asdict(one), "bytes_per_s": one.bytes_per_s} for one in report.pairs],
        "findings": [{**asdict(fault), "severity": fault.severity.value} for fault in report.faults],
    }


def show(report: Report) -> None:
    """Print a line for each host, then what is wrong and what helps, then what changed since the baseline."""
    states = {name: [report.state(name, check) for check in report.checks] for name in report.hosts}
    rows = [[name, *(_WORDS[state] for state in states[name])] for name in report.hosts]
    fine = [
        check for at, check in enumerate(report.checks) if all(row[at] in ("pass", None) for row in states.values())
    ]
    output.table(("host", *report.checks), rows, drop=fine)
    if report.pairs:
        _show_pairs(report)
    for fault in report.faults:
        word, colour = _WORDS["failure" if fault.severity is Severity.ERROR else "warning"]
        click.echo(f"{click.style(word, fg=colour)} {output.plain(f'{fault.host}: {fault.problem}')}")
        click.echo(f"  {output.plain(fault.remedy)}")
    for name, changes in report.changes.items():
        for change in changes:
            click.echo(f"changed since the baseline: {output.plain(f'{name}: {change}')}")
    errors = len({fault.host for fault in report.faults if fault.severity is Severity.ERROR})
    warnings = sum(fault.severity is Severity.WARNING for fault in report.faults)
    click.echo(
        f"{len(report.hosts) - errors} of {len(report.hosts)} hosts pass"
        + (f", with {warnings} warning{'s' * (warnings != 1)}" if warnings else "")
    )


def _show_pairs(report: Report) -> None:
    _, usual_s = usual(report.pairs)
    rows = []
    for one in report.pairs:
        share = f"{one.large_s / usual_s:.1f}" if one.large_s and usual_s else "-"
        speed = "-" if one.bytes_per_s is None else f"{output.size(one.bytes_per_s)}/s"
        times = [spell(one.small_s), spell(one.large_s), speed, share]
        rows.append([" ".join(one.hosts), str(one.round), *(times if one.problem is None else ["fails", *"---"])])
    size = f"{LARGE_BYTES >> 20} MiB"
    output.table(("pair", "round", "1 element", size, "speed", "x median"), rows)


def show_commands(report: Report) -> None:
    """Print the commands that help, as a script to read; none is run."""
    for fault in report.faults:
        click.echo(output.plain(f"# {fault.host}: {fault.problem}; {fault.remedy}"))
        for command in fault.commands:
            click.echo(output.plain(command))
