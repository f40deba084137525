from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from orchestrator.supervisor import memory

KILLED = {"code": None, "signal": signal.SIGKILL}
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
V2 = "low 0\nhigh 0\nmax 214\noom 5\noom_kill {}\noom_group_kill 0\n"
VMSTAT = "nr_free_pages 5242880\noom_kill {}\nnuma_hit 1\n"


@pytest.mark.parametrize("layout", [V1, V2, VMSTAT])
@pytest.mark.parametrize("ending", [KILLED, {"code": 137, "signal": None}])
def test_a_killed_rank_whose_counter_rose_ran_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, ending: "dict[str, int]"
) -> None:
    counter = tmp_path / "counter"
    monkeypatch.setattr(memory, "_of_cgroup", lambda pid: (str(counter),))
    counter.write_text(layout.format(3))
    watched = memory.Memory()
    watched.note(0, os.getpid())
    assert watched.of_end(0, os.getpid(), ending) is None, "killed by somebody"
    counter.write_text(layout.format(4))
    found = watched.of_end(0, os.getpid(), ending)
    assert found is not None and found["by"] == "cgroup" and str(counter) in found["evidence"]


@pytest.mark.parametrize("ending", [{"code": 0, "signal": None}, {"code": 1, "signal": None}, {"signal": 11}])
def test_a_rank_that_ended_otherwise_did_not_run_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: "dict[str, int]"
) -> None:
    counter = tmp_path / "counter"
    monkeypatch.setattr(memory, "_of_cgroup", lambda pid: (str(counter),))
    counter.write_text(V2.format(0))
    watched = memory.Memory()
    watched.note(0, os.getpid())
    counter.write_text(V2.format(9))
    assert watched.of_end(0, os.getpid(), ending) is None


def test_this_process_is_found_in_the_counters_of_this_machine() -> None:
    names = memory._of_cgroup(os.getpid())
    assert all(memory._count(name) is not None for name in names)
    assert memory._count("/proc/vmstat") is not None or not names


def test_a_rank_of_which_nothing_was_noted_is_passed_over() -> None:
    assert memory.Memory().of_end(7, 2**22 + 7, KILLED) is None
