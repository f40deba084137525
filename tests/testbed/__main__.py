"""For a person: `python -m tests.testbed up 4`, `... crash node2`, `... down`. `make testbed` calls it."""

from __future__ import annotations

import argparse
import sys

from tests.testbed.bed import BedError, Testbed

FAULTS = ["crash", "power_cut", "boot", "stop_sshd", "start_sshd", "hang", "unhang", "cut", "mend"]


def up(count: int) -> None:
    for bed in Testbed.standing():
        show(bed)
        raise BedError("a test bed is up already; `make testbed-down` takes it away")
    show(Testbed.up(count, standing=True))


def show(bed: Testbed) -> None:
    print(f"{len(bed.hosts)} hosts: {bed.hosts[0].name} ({bed.hosts[0].address}) to {bed.hosts[-1].name}")
    print(f"  ssh -F {bed.ssh_config} {bed.hosts[0].name}")
    print(f"  {bed.hosts_yaml}")
    print(f"  {sys.executable} -m tests.testbed crash {bed.hosts[0].name}     # {', '.join(FAULTS[1:])}")


def down() -> None:
    beds = Testbed.standing()
    for bed in beds:
        bed.down()
    if not beds:
        print("no test bed is up")


def fault(name: str, host_name: str) -> None:
    for bed in Testbed.standing():
        for host in bed.hosts:
            if host.name == host_name:
                getattr(bed, name)(host)
                return
    raise BedError(f"no host {host_name}: is the test bed up?")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.testbed", description="Hosts to play with.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("up").add_argument("hosts", type=int)
    verbs.add_parser("down")
    for name in FAULTS:
        verbs.add_parser(name).add_argument("host")
    words = parser.parse_args()
    try:
        if words.verb == "up":
            up(words.hosts)
        elif words.verb == "down":
            down()
        else:
            fault(words.verb, words.host)
    except BedError as error:
        sys.exit(f"test bed: {error}")


main()
