"""For a person: `python -m tests.testbed up 4`, `... crash node2`, `... down`. `make testbed` calls it."""

from __future__ import annotations

import argparse
import sys
from typing import Optional

from tests.testbed.bed import Testbed
from tests.testbed.machine import BedError, unavailable

FAULTS = ["crash", "power_cut", "boot", "stop_sshd", "start_sshd", "hang", "unhang", "cut", "mend"]


def show(bed: Testbed) -> None:
    this = f"{sys.executable} -m tests.testbed --bed {bed.number}"
    print(f"test bed {bed.number}: {len(bed.hosts)} hosts, node1 ({bed.hosts[0].address}) to {bed.hosts[-1].name}")
    print(f"  ssh -F {bed.ssh_config} node1")
    print(f"  {bed.hosts_yaml}")
    print(f"  {this} crash node1     # {', '.join(FAULTS[1:])}")
    print(f"  make testbed-down BED={bed.number}")


def choose(number: Optional[int]) -> Testbed:
    """Return the standing test bed of that number, or the only one: another's must not be taken for one's own."""
    beds = [bed for bed in Testbed.standing() if number in (None, bed.number)]
    if not beds:
        raise BedError("none is up" if number is None else f"none of number {number} is up")
    if len(beds) > 1:
        raise BedError(f"{', '.join(str(bed.number) for bed in beds)} are up: say which, by --bed or BED=")
    return beds[0]


def fault(bed: Testbed, name: str, host_name: str) -> None:
    for host in bed.hosts:
        if host.name == host_name:
            getattr(bed, name)(host)
            return
    raise BedError(f"no host {host_name} in test bed {bed.number}: it has node1 to {bed.hosts[-1].name}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.testbed", description="Hosts to play with.")
    parser.add_argument("--bed", type=int, help="which test bed, where several are up")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("up").add_argument("hosts", type=int)
    verbs.add_parser("down")
    for name in FAULTS:
        verbs.add_parser(name).add_argument("host")
    words = parser.parse_args()
    try:
        reason = unavailable()
        if reason:
            raise BedError(reason)
        if words.verb == "up":
            show(Testbed.up(words.hosts, standing=True))
        elif words.verb == "down":
            choose(words.bed).down()
        else:
            fault(choose(words.bed), words.verb, words.host)
    except BedError as error:
        sys.exit(f"test bed: {error}")


main()
