"""Stacks of real processes, by py-spy and by faulthandler."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.supervisor import stacks
from orchestrator.supervisor.hostplan import ProcessPlan
from orchestrator.supervisor.process import Identity
from orchestrator.supervisor.rundir import RunDir
from tests.conftest import wait_for

SLEEPS = "import time\ndef all_reduce():\n    print('up', flush=True)\n    time.sleep(600)\nall_reduce()\n"
LOOPS = "print('up', flush=True)\nwhile True: pass\n"

Start = Callable[..., "tuple[ProcessPlan, subprocess.Popen[bytes]]"]


@pytest.fixture
def start(tmp_path: Path) -> "Iterator[Start]":
    """Return a function that starts a program as rank 0 is started, and its plan."""
    running = []
    (tmp_path / "train").mkdir()

    def begin(source: str, *before: str) -> "tuple[ProcessPlan, subprocess.Popen[bytes]]":
        argv = (*before, sys.executable, "-X", "faulthandler", "-c", source)
        plan = ProcessPlan(0, (sys.executable,), {}, "train", "train.log")
        log = tmp_path / "train/train.log"
        with open(log, "wb") as file:
            running.append(subprocess.Popen(argv, stdout=file, stderr=file))
        wait_for(lambda: "up" in log.read_text())
        return plan, running[-1]

    yield begin
    for process in running:
        process.kill()
        process.wait()


def taken(tmp_path: Path, plan: ProcessPlan, pid: int) -> "dict[str, object]":
    found = stacks.Stacks(RunDir(tmp_path), {0: plan})
    identity = Identity.of(pid)
    assert identity is not None
    found.begin({0: identity}, {0: False})
    wait_for(found.done)
    return found.taken()[0]


def test_py_spy_tells_the_frames_and_that_the_rank_waits_for_its_peers(tmp_path: Path, start: Start) -> None:
    plan, process = start(SLEEPS)
    told = taken(tmp_path, plan, process.pid)
    assert (told["by"], told["state"], told["in_collective"], told["busy"]) == ("py-spy", "S", True, False)
    assert told["frames"] == ["all_reduce (<string>:4)", "<module> (<string>:5)"] or "all_reduce" in str(told["frames"])
    text = (tmp_path / str(told["file"])).read_text()
    assert "all_reduce" in text and "wchan" in text
    assert process.poll() is None, "a look leaves it alone"


def test_a_loop_of_ones_own_is_no_collective(tmp_path: Path, start: Start) -> None:
    plan, process = start(LOOPS)
    assert taken(tmp_path, plan, process.pid)["in_collective"] is False


def test_a_rank_below_a_shell_is_the_one_that_is_looked_at(tmp_path: Path, start: Start) -> None:
    plan, process = start(SLEEPS, "timeout", "600")
    assert "all_reduce" in str(taken(tmp_path, plan, process.pid)["frames"])
    process.send_signal(signal.SIGTERM)
    process.wait()


def test_a_stopped_rank_is_looked_at_and_stays_stopped(tmp_path: Path, start: Start) -> None:
    plan, process = start(SLEEPS)
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: stacks.kernel_facts(process.pid)["state"] == "T")
    told = taken(tmp_path, plan, process.pid)
    assert told["state"] == "T" and "all_reduce" in str(told["frames"])
    assert stacks.kernel_facts(process.pid)["state"] == "T"


def test_a_process_that_is_gone_is_told_by_what_is_left(tmp_path: Path, start: Start) -> None:
    plan, process = start(SLEEPS)
    identity = Identity.of(process.pid)
    assert identity is not None
    process.kill()
    process.wait()
    found = stacks.Stacks(RunDir(tmp_path), {0: plan})
    found.begin({0: identity}, {})
    wait_for(found.done)
    assert found.taken()[0]["state"] is None


def test_an_aborted_rank_writes_its_stack_into_its_log_and_no_core(tmp_path: Path, start: Start) -> None:
    plan, process = start(SLEEPS)
    found = stacks.Stacks(RunDir(tmp_path), {0: plan})
    assert found.from_log(0) is None
    process.send_signal(signal.SIGSTOP)
    identity = Identity.of(process.pid)
    assert identity is not None
    stacks.abort(identity)
    assert process.wait(timeout=30) == -signal.SIGABRT
    told = found.from_log(0)
    assert told is not None
    assert told["by"] == "faulthandler" and told["in_collective"] is True
    assert told["frames"][0].startswith("all_reduce (")
    assert "all_reduce" in (tmp_path / "train/stack.txt").read_text()


# As py-spy 0.4 wrote it beside MindSpore 2.10, shortened.
NATIVE = """Process 18963: /usr/bin/python train.py
Python v3.11.7 (/usr/bin/python3.11)

Thread 19001 (idle): "Thread-1"
    wait (threading.py:320)
Thread 18963 (idle): "MainThread"
    0x7efe8b2a3f16 (libc.so.6)
    mindspore::fl::server::CollectiveOpsImpl::RunRingAllReduce<float> (libmindspore_cluster.so)
    mindspore::runtime::GraphScheduler::Run (libmindspore_ms_backend.so)
    _CellGraphExecutor._exec_pip (mindspore/graph/api.py:2432)
    <module> (train.py:18)
"""


def test_the_native_frames_of_mindspore_tell_a_collective_that_its_python_frames_do_not(
    tmp_path: Path, start: Start
) -> None:
    path = tmp_path / "stack.txt"
    path.write_text(NATIVE)
    told = stacks._read_py_spy(path)
    assert told["in_collective"] is True
    assert told["frames"] == ["_CellGraphExecutor._exec_pip (mindspore/graph/api.py:2432)", "<module> (train.py:18)"]
    assert "RunRingAllReduce" in told["native"][0]
    path.write_text(NATIVE.replace("RunRingAllReduce", "Compute").replace("CollectiveOpsImpl", "Impl"))
    assert stacks._read_py_spy(path)["in_collective"] is None, "a graph runs: of what, nobody knows"
    path.write_text("Error: Permission Denied\n")
    assert stacks._read_py_spy(path) == {}
