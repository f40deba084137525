"""How findings, and rank tables, look on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

import click

from orchestrator.cli import output

if TYPE_CHECKING:
    from orchestrator.findings import Finding
    from orchestrator.ranktable.model import RankTable

_MOST_FINDINGS = 20  # more of them tell a person no more


def show_findings(findings: "Sequence[Finding]") -> None:
    """Print what a check found: where, how bad, what, and what to do."""
    for finding in findings[:_MOST_FINDINGS]:
        colour = {"error": "red", "warning": "yellow"}[finding.severity.value]
        mark = click.style(f"{finding.severity.value} {finding.code}", fg=colour)
        where = f"{_line(finding.where)}: " if finding.where else ""
        click.echo(f"{where}{mark}: {_line(finding.problem)}")
        click.echo(f"    {_line(finding.remedy)}")
    if len(findings) > _MOST_FINDINGS:
        click.echo(f"... and {len(findings) - _MOST_FINDINGS} more; --json has all")


def _line(text: str) -> str:
    return output.plain(text).replace("\n", "?")  # a server's id must not look like a line of ours


def verdict(findings: "Sequence[Finding]") -> str:
    """Return what findings come to: `2 errors, 1 warning`, or `fine`."""
    errors = sum(finding.severity.value == "error" for finding in findings)
    parts = [counted(errors, "error")] * (errors > 0)
    parts += [counted(len(findings) - errors, "warning")] * (len(findings) > errors)
    return ", ".join(parts) or "fine"


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def what_table(rank_table: "Optional[RankTable]") -> str:
    """Return, in brackets, what table it is; nothing for a text that is none."""
    if rank_table is None:
        return ""
    ranks = counted(rank_table.rank_count, "rank")
    return f" (version {rank_table.version}, {counted(len(rank_table.servers), 'server')}, {ranks})"


def show_rank_table(rank_table: RankTable) -> None:
    """Print servers x devices, in each place the rank and the address; a device a line where that is too wide."""
    click.echo(f"{output.plain(rank_table.status)}{what_table(rank_table)}")
    room = output.console().width
    ids = sorted({device.device_id for _, device in rank_table.devices()})
    fits = len(ids) < room  # so many are of no server, and servers x them would fill the memory
    wide, lines = [], []
    for server in rank_table.servers:
        name, pod = output.plain(server.server_id), output.plain(server.super_pod_id or "-")
        cells = dict.fromkeys(ids if fits else (), "-")
        for device in server.devices:
            address = output.plain(",".join(device.device_ips)) or "-"
            cells[device.device_id] = f"{device.rank_id}  {address}"
            lines.append([name, pod, str(device.device_id), str(device.rank_id), address])
        wide.append([name, pod, *cells.values()])
    if fits and sum(max(map(len, column)) + 2 for column in zip(*wide)) <= room:
        output.table(("server", "super pod", *(f"device {one}" for one in ids)), wide)
    else:
        output.table(("server", "super pod", "device", "rank", "address"), lines)
