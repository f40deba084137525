"""How processes look that earlier runs left behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from orchestrator.cli import output
from orchestrator.supervisor.abandoned import Leftover


def show(found: "Mapping[str, Sequence[Leftover]]") -> None:
    """Print a line for each process that earlier runs left, of one host or many."""
    rows = [
        [
            host if len(found) > 1 else "-",
            str(one.pid),
            output.plain(one.run),
            "-" if one.rank is None else str(one.rank),
            output.duration(one.age_s),
            one.reason,
            output.plain(one.command),
        ]
        for host, leftovers in found.items()
        for one in leftovers
    ]
    if rows:
        output.table(("host", "pid", "run", "rank", "age", "why", "command"), rows, drop=("why",))
    else:
        click.echo("nothing is left of earlier runs")
