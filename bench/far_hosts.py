"""How long eight trivial ranks on each of many hosts take to be up: a parallel loop of `ssh` and ascendrun, in one run.

The hosts are those of the tests: network namespaces of this machine, each with an sshd. Needs root.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.testbed.bed import Testbed

RANKS = 8
ASCENDRUN = str(Path(sys.executable).with_name("ascendrun"))
UP = 'import os; open(os.environ["UP"] + "/" + os.environ["RANK"], "w"); import time; time.sleep(600)'


def until_all_are_up(folder: Path, count: int, began: float) -> float:
    """Return the seconds since *began* when all ranks have left their mark."""
    while len(os.listdir(folder)) < count:
        if time.perf_counter() - began > 90:
            raise SystemExit(f"only {len(os.listdir(folder))} of {count} ranks came up")
        time.sleep(0.01)
    return time.perf_counter() - began


def there(bed: Testbed, folder: Path) -> str:
    """Return what the hosts call a folder that they share."""
    return f"/srv/shared/{folder.relative_to(bed.shared)}"


def ssh_loop(bed: Testbed, marks: Path) -> float:
    began = time.perf_counter()
    started = []
    for index, host in enumerate(bed.hosts):
        program = " ".join(map(shlex.quote, [sys.executable, "-S", "-c", UP]))
        begin = f"UP={shlex.quote(there(bed, marks))} RANK=%d setsid {program} </dev/null >/tmp/%d.log 2>&1 &"
        lines = [begin % (index * RANKS + rank, rank) for rank in range(RANKS)]
        words = ["ssh", "-F", str(bed.ssh_config), host.name, "\n".join(lines)]
        started.append(subprocess.Popen(words, stdin=subprocess.DEVNULL))
    took = until_all_are_up(marks, RANKS * len(bed.hosts), began)
    for process in started:
        process.wait()
    for host in bed.hosts:
        bed.exec(host, ["pkill", "-f", "time.sleep.600"], check=False)
    return took


def ascendrun(bed: Testbed, marks: Path, folder: Path) -> "tuple[float, float]":
    """Return the seconds until all ranks are up, and those that `status` takes then."""
    environment = {**os.environ, "HOME": str(bed.home), "ASCENDRUN_HOME": str(folder / "home")}
    words = [
        ASCENDRUN,
        "launch",
        "--hosts",
        str(bed.hosts_yaml),
        "--devices",
        str(RANKS),
        "--name",
        folder.name,
        "--detach",
    ]
    words += ["--", "env", f"UP={there(bed, marks)}", sys.executable, "-S", "-c", UP]
    began = time.perf_counter()
    launched = subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    took = until_all_are_up(marks, RANKS * len(bed.hosts), began)
    launched.wait()
    began = time.perf_counter()
    subprocess.run(
        [ASCENDRUN, "status", folder.name], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL
    )
    status_s = time.perf_counter() - began
    subprocess.run(
        [ASCENDRUN, "stop", folder.name, "--grace", "0"], cwd=folder, env=environment, check=True, capture_output=True
    )
    return took, status_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{RANKS} ranks a host, median of {arguments.rounds} rounds: seconds until all are up")
    print("hosts  ssh loop  ascendrun  ratio  status")
    for count in arguments.hosts:
        bed = Testbed.up(count)
        try:
            loops, ours, statuses = [], [], []
            for number in range(arguments.rounds):
                marks = bed.shared / f"loop{number}"
                marks.mkdir()
                loops.append(ssh_loop(bed, marks))
                marks = bed.shared / f"ours{number}"
                marks.mkdir()
                with tempfile.TemporaryDirectory(prefix="bench") as folder:
                    took, status_s = ascendrun(bed, marks, Path(folder))
                ours.append(took)
                statuses.append(status_s)
            loop, mine = statistics.median(loops), statistics.median(ours)
            print(f"{count:5}  {loop:8.2f}  {mine:9.2f}  {mine / loop:5.2f}  {statistics.median(statuses):6.2f}")
        finally:
            bed.down()


if __name__ == "__main__":
    main()
