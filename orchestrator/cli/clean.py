"""`ascendrun clean`"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any, Optional, Union

import click

from orchestrator import leftovers
from orchestrator.cli import leftovertable, output, reaching
from orchestrator.errors import HostError
from orchestrator.hosts import load_inventory
from orchestrator.transport.fanout import open_all

_GRACE_S = 10.0


@click.command("clean")
@reaching.hosts
@reaching.host
@reaching.way
@click.option("--yes", is_flag=True, help="End them without asking.")
@click.option(
    "--grace",
    type=click.FloatRange(0, 86_400),
    default=_GRACE_S,
    metavar="S",
    help=f"Seconds between SIGTERM and SIGKILL; {_GRACE_S:g} by default.",
)
def command(hosts: Optional[str], targets: "tuple[str, ...]", yes: bool, grace: float, **way: Any) -> int:
    """List processes that earlier runs left behind, here or on the hosts of a file, and end them.

    They carry the mark of a run whose folder was removed, that has ended, or that nobody can watch over any more. A
    process of a run that goes on, of another user or of another container is never touched.
    """
    inventory = load_inventory(hosts, targets) if hosts or targets else None
    with open_all(inventory.entries, **way) if inventory else nullcontext() as fleet:
        told = leftovers.find(fleet)
        found = {host: answer for host, answer in told.items() if not isinstance(answer, HostError)}
        silent = {host: answer for host, answer in told.items() if isinstance(answer, HostError)}
        for error in silent.values():
            output.say(str(error))
        leftovertable.show(found)
        code = HostError.exit_code if silent else 0
        if not any(found.values()):
            return code
        if not yes and not sys.stdin.isatty():
            output.say("they go on: --yes ends them")
            return code or 1
        if not yes and not click.confirm("end them?", err=True):
            return code or 1
        left = {host: still for host, still in leftovers.end(found, grace, fleet).items() if still and host in found}
    for host, still in left.items():
        output.say(f"{host}: could not be ended: {_words(still)}")
    if not left:
        click.echo("ended")
    return HostError.exit_code if left else code


def _words(still: "Union[set[int], HostError]") -> str:
    return str(still) if isinstance(still, HostError) else f"pid {', '.join(map(str, sorted(still)))}"
