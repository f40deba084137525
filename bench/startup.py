"""How long until eight trivial ranks are up: a shell loop, ascendrun, msrun and torchrun, side by side.

A rank is up when its first line of Python runs; it writes the time of the monotonic clock, which all
processes of a machine share. Prints the median of several rounds and the ratio to the shell loop. The
loop comes in two forms: bare, and as model scripts have it (a work folder, `env > env.log`, a log).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RANK = """
import os, time
if os.environ.get("MS_ROLE") != "MS_SCHED":
    up = str(time.monotonic())
    open(os.path.join(os.environ["BENCH_STAMPS"], os.environ.get("RANK") or os.environ["RANK_ID"]), "w").write(up)
"""
BARE = "for i in $(seq 0 {last}); do RANK=$i {python} {rank} & done; wait"
FIELD = (
    "for i in $(seq 0 {last}); do rm -rf tp$i; mkdir tp$i; cp {rank} tp$i; cd tp$i; export RANK=$i; env > env.log; "
    "{python} {rank} > train.log 2>&1 & cd ..; done; wait"
)


def commands(ranks: int, rank: Path, python: str) -> "dict[str, list[str]]":
    """Return each way to start *ranks* processes of the program *rank*, where it is installed.

    The launchers of the frameworks take the interpreter that they are installed for, whatever *python* is.
    """
    bin_dir = Path(sys.executable).parent
    shell = {"last": ranks - 1, "python": python, "rank": rank}
    ways = {
        "shell loop": ["bash", "-c", BARE.format(**shell)],
        "shell loop as in model scripts": ["bash", "-c", FIELD.format(**shell)],
        "ascendrun": [str(bin_dir / "ascendrun"), "launch", "--devices", str(ranks), "--", python, str(rank)],
    }
    if (bin_dir / "msrun").exists():
        ways["msrun"] = [
            str(bin_dir / "msrun"),
            f"--worker_num={ranks}",
            f"--local_worker_num={ranks}",
            "--join=True",
            "--master_port=18118",
            str(rank),
        ]
    if (bin_dir / "torchrun").exists():
        ways["torchrun"] = [str(bin_dir / "torchrun"), "--standalone", f"--nproc-per-node={ranks}", str(rank)]
    return ways


def measure(command: "list[str]", ranks: int, folder: Path, limit_s: float = 90) -> float:
    """Return the seconds from the start of *command* until the last of its ranks was up."""
    stamps = Path(tempfile.mkdtemp(dir=folder))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # msrun runs whatever `python` is
    environment = {**os.environ, "PATH": path, "BENCH_STAMPS": str(stamps), "ASCENDRUN_HOME": str(folder / "home")}
    began = time.monotonic()
    running = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = began + limit_s
    while len(list(stamps.iterdir())) < ranks and time.monotonic() < deadline:
        time.sleep(0.05)
    running.wait(timeout=limit_s)
    ups = [float(stamp.read_text()) for stamp in stamps.iterdir()]
    if len(ups) < ranks:
        raise SystemExit(f"{command[0]}: {len(ups)} of {ranks} ranks came up within {limit_s} s")
    return max(ups) - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9, help="rounds; msrun and torchrun take part in a third of them")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the ranks")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ascendrun-bench-"))
    try:
        rank = folder / "rank.py"
        rank.write_text(RANK)
        ways = commands(arguments.ranks, rank, arguments.python)
        times: "dict[str, list[float]]" = {name: [] for name in ways}
        for round_number in range(arguments.rounds):
            for name, command in ways.items():
                if name in ("msrun", "torchrun") and round_number % 3:
                    continue
                times[name].append(measure(command, arguments.ranks, folder))
        loop = statistics.median(times["shell loop"])
        print(f"{arguments.ranks} trivial ranks up, {os.cpu_count()} CPUs, {arguments.rounds} rounds")
        for name, measured in times.items():
            median = statistics.median(measured)
            print(f"{name:32} {median:7.3f} s (best {min(measured):.3f})   {median / loop:6.2f} x shell loop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
