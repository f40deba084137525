"""How long `ascendrun doctor` takes over many healthy hosts, beside a parallel loop of `ssh HOST true`, in one run.

The hosts are those of the tests: network namespaces of this machine, each with an sshd and eight devices that answer
like real ones. Their work is done on the same CPUs. Needs root.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.testbed.bed import Testbed

ASCENDRUN = str(Path(sys.executable).with_name("ascendrun"))


def ssh_loop(bed: Testbed) -> float:
    """Return the seconds in which all hosts have run `true`."""
    began = time.perf_counter()
    words = ["ssh", "-F", str(bed.ssh_config)]
    started = [subprocess.Popen([*words, host.name, "true"], stdin=subprocess.DEVNULL) for host in bed.hosts]
    if any([process.wait() for process in started]):
        raise SystemExit("ssh failed")
    return time.perf_counter() - began


def doctor(bed: Testbed, home: str) -> float:
    began = time.perf_counter()
    subprocess.run(
        [ASCENDRUN, "doctor", "--hosts", str(bed.hosts_yaml)],
        env={**os.environ, "HOME": str(bed.home), "ASCENDRUN_HOME": home},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"median of {arguments.rounds} rounds, in seconds")
    print("hosts  ssh true  doctor  ratio")
    for count in arguments.hosts:
        bed = Testbed.up(count)
        try:
            with tempfile.TemporaryDirectory(prefix="bench") as home:
                doctor(bed, home)  # brings what runs there, once for all
                rounds = [(ssh_loop(bed), doctor(bed, home)) for _ in range(arguments.rounds)]
        finally:
            bed.down()
        loop, ours = (statistics.median(times) for times in zip(*rounds))
        print(f"{count:5}  {loop:8.2f}  {ours:6.2f}  {ours / loop:5.2f}")


if __name__ == "__main__":
    main()
