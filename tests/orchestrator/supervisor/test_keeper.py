"""The keeper, with real processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from orchestrator.supervisor.hostplan import ProcessPlan
from orchestrator.supervisor.keeper import start_keeper
from orchestrator.supervisor.rundir import RunDir

TELL_CPUS = (sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))")


def test_a_process_without_cpus_of_its_own_does_not_inherit_those_of_the_one_before(tmp_path: Path) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    run_dir = RunDir(tmp_path)
    run_dir.make_folders(["pinned", "free"])
    plans = [
        ProcessPlan(0, TELL_CPUS, {}, "pinned", "train.log", cpus=(cpus[-1],)),
        ProcessPlan(None, TELL_CPUS, {}, "free", "scheduler.log"),
    ]
    os.waitpid(start_keeper(run_dir, plans, "run-1"), 0)
    assert run_dir.log("pinned", "train.log").read_text() == f"{[cpus[-1]]}\n"
    assert run_dir.log("free", "scheduler.log").read_text() == f"{cpus}\n"
