"""`ascendrun doctor`"""

from __future__ import annotations

import socket
from typing import Any, Optional

import click

from orchestrator import jobfiles
from orchestrator.cli import output, reaching
from orchestrator.errors import HostError, SpecError
from orchestrator.hosts import load_inventory
from orchestrator.transport.fanout import open_all


@click.command("doctor")
@reaching.hosts
@reaching.host
@reaching.way
@click.option("--job", metavar="JOB", help="Look for what this job needs, too.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=0,
    help="Dial between hosts on this port; by default on any that is free.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 600),
    default=15.0,
    show_default=True,
    metavar="S",
    help="Seconds for npu-smi or hccn_tool to answer.",
)
@click.option(
    "--collective",
    is_flag=True,
    help="Run all-reduces over pairs of hosts, and name the host or link that is slow. Takes a minute.",
)
@click.option("--save", is_flag=True, help="Keep what the hosts are like now; later calls show what has changed.")
@click.option("--fix", is_flag=True, help="Print commands that help, instead of the table. None is run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    hosts: Optional[str],
    targets: "tuple[str, ...]",
    job: Optional[str],
    port: int,
    timeout_s: float,
    collective: bool,
    save: bool,
    fix: bool,
    as_json: bool,
    **way: Any,
) -> int:
    """Say what is wrong with this machine, or with the hosts of a file, before a run finds out.

    Looks at Python, MindSpore, CANN, driver, CPUs, memory, disk, clock, limits, network, devices and their links, who
    uses them, what earlier runs left; at what must be alike on all hosts; and whether each can dial each. Exit code 3
    where something fails.

    \b
      ascendrun doctor
      ascendrun doctor --hosts hosts.yaml --job sknet50
      ascendrun doctor --hosts hosts.yaml --fix
      ascendrun doctor --hosts hosts.yaml --collective
    """
    from orchestrator import doctor
    from orchestrator.cli import doctortable

    if collective and not (hosts or targets):
        raise SpecError("--collective pairs hosts with one another: name them by --hosts FILE or --host")
    order = doctor.Order(jobfiles.load(job) if job else None, port, timeout_s)
    if hosts or targets:
        inventory = load_inventory(hosts, targets)
        with open_all(inventory.entries, **way) as fleet:
            report = doctor.examine_all(inventory, fleet, order)
            if collective:
                from orchestrator import collective as all_reduces

                report = all_reduces.examine(report, fleet, output.say)
    else:
        report = doctor.examine_here(socket.gethostname(), order)
    if as_json:
        output.print_json(doctortable.as_json(report))
    elif fix:
        doctortable.show_commands(report)
    else:
        doctortable.show(report)
    if save:
        output.say(f"the baseline is kept in {doctor.save(report)}")
    return HostError.exit_code if report.failed else 0
