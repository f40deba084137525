"""How long a killed rank keeps a job from its next step, beside a cold start of the same job, in one run."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator import drills
from orchestrator.monitor import Follower
from orchestrator.runstate import RunState
from orchestrator.store import Run

ASCENDRUN = str(Path(sys.executable).with_name("ascendrun"))


def until(run: Run, holds: "Callable[[RunState], bool]") -> float:
    """Return when the run first was as *holds* says."""
    for state in Follower(run).states():
        if holds(state):
            return time.perf_counter()
        if state.finished:
            raise SystemExit("the run was over too soon: see `ascendrun logs`")
    raise SystemExit("the run vanished")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", default="sknet50-cpu")
    parser.add_argument("--ranks", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        environment = {**os.environ, "ASCENDRUN_HOME": f"{folder}/home", "XDG_CACHE_HOME": f"{folder}/cache"}

        def ascendrun(*words: str) -> None:
            subprocess.run([ASCENDRUN, *words], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)

        ascendrun("data", "sample", "data", "--train", "1920", "--test", "10")
        began = time.perf_counter()
        settings = ["--set", "save_checkpoint_steps=2", "--set", "epoch_size=3"]
        words = ["launch", arguments.job, "--devices", str(arguments.ranks), "--dataset", "data", *settings]
        ascendrun(*words, "--max-restarts", "1", "--name", "r", "--detach")
        run = Run.read(Path(folder) / "runs/r")
        cold_s = until(run, lambda state: bool(state.lead())) - began
        until(run, lambda state: bool(state.checkpoints))
        drills.strike_rank(run, arguments.ranks - 1, signal.SIGKILL)
        began = time.perf_counter()
        restart_s = until(run, lambda state: state.attempt > 1 and bool(state.lead())) - began
        ascendrun("stop", "r", "--grace", "0")
    print(f"{arguments.job}, {arguments.ranks} ranks: first step after a cold start {cold_s:.1f} s,")
    print(f"next step after a kill {restart_s:.1f} s: {restart_s / cold_s:.2f} of it")


if __name__ == "__main__":
    main()
