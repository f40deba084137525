"""`ascendrun hosts`"""

from __future__ import annotations

from typing import Any, Optional

import click

from orchestrator import hosts
from orchestrator.cli import hosttable, output, reaching
from orchestrator.errors import HostError
from orchestrator.transport.fanout import open_all


@click.command("hosts")
@click.argument("file", required=False)
@reaching.host
@reaching.way
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    file: Optional[str],
    targets: "tuple[str, ...]",
    as_json: bool,
    **way: Any,
) -> int:
    """Show the hosts of FILE, and whether each answers: its Python, its devices, and the time it took.

    FILE is a hosts.yaml, a hostfile of MPI or DeepSpeed, a Slurm node list, or has one host a line. Exit code 3 if a
    host does not answer.
    """
    inventory = hosts.load_inventory(file, targets)
    with open_all(inventory.entries, **way) as fleet:
        reports = hosts.ask_all(fleet)
    if as_json:
        output.print_json([hosttable.host_as_json(report) for report in reports])
    else:
        hosttable.show_hosts(reports)
    return HostError.exit_code if any(report.problem for report in reports) else 0
