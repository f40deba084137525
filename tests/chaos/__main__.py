"""`make chaos`: the whole suite on real MindSpore; `--sockets` for the shorter form that the tests have."""

from __future__ import annotations

import argparse
import sys

from orchestrator.cli.output import show_rehearsal
from tests.chaos.faults import ALL
from tests.chaos.suite import run_all


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", action="store_true", help="ranks that sum by sockets instead of MindSpore")
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side")
    parser.add_argument("faults", nargs="*", help="parts of the names of those to run; all if left away")
    arguments = parser.parse_args()
    chosen = [one for one in ALL if not arguments.faults or any(part in one.name for part in arguments.faults)]
    rows = run_all(chosen, "sockets" if arguments.sockets else "mindspore", arguments.at_once)
    show_rehearsal(rows)
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
