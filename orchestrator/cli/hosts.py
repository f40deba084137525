"""`ascendrun hosts`"""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import click

from orchestrator import hosts
from orchestrator.cli import hosttable, output
from orchestrator.errors import HostError
from orchestrator.transport.fanout import open_all


@click.command("hosts")
@click.argument("file", required=False)
@click.option("--host", "targets", multiple=True, metavar="[USER@]ADDRESS[:PORT]", help="A host more; may be repeated.")
@click.option("--ssh-config", type=click.Path(path_type=Path), help="Instead of ~/.ssh/config.")
@click.option("--accept-new-host-keys", is_flag=True, help="Take the keys of hosts seen for the first time.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    file: Optional[str],
    targets: "tuple[str, ...]",
    ssh_config: Optional[Path],
    accept_new_host_keys: bool,
    as_json: bool,
) -> int:
    """Show the hosts of FILE, and whether each answers: its Python, its devices, and the time it took.

    FILE is a hosts.yaml, a hostfile of MPI or DeepSpeed, a Slurm node list, or has one host a line. Exit code 3 if a
    host does not answer.
    """
    inventory = hosts.load_inventory(file, targets)
    with open_all(inventory.entries, ssh_config=ssh_config, accept_new_host_keys=accept_new_host_keys) as fleet:
        reports = hosts.ask_all(fleet)
    if as_json:
        output.print_json([hosttable.host_as_json(report) for report in reports])
    else:
        hosttable.show_hosts(reports)
    return HostError.exit_code if any(report.problem for report in reports) else 0
