"""Ranks that stop, loop, leave too early, tell losses that are no numbers: real processes that wait for one another."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import wait_for

# A rank that meets its peers at each step, by files. What goes wrong, in which rank, is in its environment.
RANK = """
import json, os, signal, sys, time
rank, size, meet = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), os.environ["MEET"]

def tell(**fact):
    with open(os.environ["ASCENDRUN_PROGRESS"], "a") as file:
        file.write(json.dumps(fact) + "\\n")

def all_reduce(step):
    open(f"{meet}/{step}.{rank}", "w").close()
    while not all(os.path.exists(f"{meet}/{step}.{one}") for one in range(size)):
        time.sleep(0.01)

def load_pictures():
    time.sleep(600)

print("up", flush=True)
for step in range(1, 41):
    if rank == 1 and step == 12:
        FAULT
    all_reduce(step)
    tell(kind="step", epoch=1, epochs=1, step=step, steps=40, loss=1.0, step_s=0.03)
    time.sleep(0.03)
"""
FAULTS = {
    "stop": "os.kill(os.getpid(), signal.SIGSTOP)",
    "loop": "while True: pass",
    "sleep": "load_pictures()",
    "leave": "sys.exit(0)",
}


@pytest.fixture
def ranks(cli, program, tmp_path):
    """Return a function that gives the words of ranks with a fault, which meet in a folder of their own."""

    def write(fault):
        meet = tmp_path / f"meet{len(list(tmp_path.glob('meet*')))}"
        meet.mkdir()
        source = RANK.replace("FAULT", fault).replace('os.environ["MEET"]', repr(str(meet)))
        return program(source, f"{meet.name}.py")

    return write


def hung(cli, run):
    state = cli.status(run)
    verdict = state["verdict"]
    kinds = [event["kind"] for event in cli.events(run)]
    assert kinds.index("hang") < kinds.index("stacks") < kinds.index("stopping"), "stacks before anything is stopped"
    assert (state["outcome"], state["finished"]) == ("failed", True)
    return verdict


def python_without_py_spy(folder):
    """Return a Python beside which lies a py-spy that may not look, as in a container without that right."""
    folder.mkdir()
    (folder / "python").symlink_to(sys.executable)
    (folder / "py-spy").write_text("#!/bin/sh\necho 'Permission Denied: Try running again with elevated permissions'\n")
    (folder / "py-spy").chmod(0o755)
    return str(folder / "python")


@pytest.fixture
def hung_runs(cli, ranks, tmp_path):
    """Launch a run for each fault, all at once, as they wait most of the time; return what each printed."""
    words = {fault: ranks(source) for fault, source in FAULTS.items()}
    words["sleep"][0] = python_without_py_spy(tmp_path / "bin")
    options = ("--devices", "3", "--hang-after", "3")
    launched = {fault: cli.start("launch", "--name", fault, *options, "--", *words[fault]) for fault in FAULTS}
    printed = {fault: one.communicate(timeout=120)[0] for fault, one in launched.items()}
    assert {fault: one.returncode for fault, one in launched.items()} == dict.fromkeys(FAULTS, 1)
    return printed


def test_the_rank_that_the_others_wait_for_is_named_with_its_stack(cli, hung_runs):
    for fault, place in {"stop": "SIGSTOP", "loop": "<module>", "sleep": "load_pictures"}.items():
        verdict = hung(cli, fault)
        assert (fault, verdict["cause"], verdict["rank"]) == (fault, "hang", 1)
        assert verdict["confidence"] > 0.9 and place in verdict["sentence"], fault
        assert "rank 1 hangs" in hung_runs[fault] and place in hung_runs[fault]
        stack = (cli.run_dir(fault) / "train_parallel0/stack.txt").read_text()
        assert "all_reduce" in stack and "wchan" in stack, fault
    verdict = hung(cli, "leave")
    assert (verdict["cause"], verdict["rank"]) == ("ended_early", 1)
    # where py-spy may not look, ranks are ended so that they write their stacks themselves
    assert {rank["signal"] for rank in cli.status("sleep")["ranks"]} == {signal.SIGABRT}
    assert not list(cli.run_dir("sleep").rglob("core*"))


def test_ranks_that_end_some_seconds_apart_have_not_hung(cli, ranks):
    words = ranks("pass")
    path = Path(words[1])
    path.write_text(path.read_text() + "\ntime.sleep(1.2 * rank)\n")
    cli("launch", "--devices", "3", "--name", "fine", "--hang-after", "4", "--", *words)
    assert cli.status("fine")["verdict"] is None


def test_a_stop_that_asks_for_stacks_gets_them_first(cli, ranks):
    cli("launch", "--devices", "2", "--name", "s", "--detach", "--", *ranks(FAULTS["sleep"]))
    progress = cli.run_dir("s") / "train_parallel0/progress.jsonl"
    wait_for(lambda: progress.exists() and progress.read_text().count("\n") == 11)
    request = cli.run_dir("s") / "requests/.stop"
    request.write_text(json.dumps({"grace_s": 5, "by": "a test", "stacks": True}))
    request.rename(request.with_name("stop.json"))
    wait_for(lambda: cli.status("s")["finished"])
    kinds = [event["kind"] for event in cli.events("s")]
    assert kinds.index("stacks") < kinds.index("stopping")
    assert cli.status("s")["outcome"] == "stopped"


def test_a_supervisor_that_was_killed_over_a_hang_has_a_successor_that_ends_the_run(cli, ranks):
    cli("launch", "--devices", "2", "--name", "k", "--detach", "--hang-after", "3", "--", *ranks(FAULTS["sleep"]))
    wait_for(lambda: any(event["kind"] == "hang" for event in cli.events("k")))
    os.kill(cli.supervisor_pid("k"), signal.SIGKILL)
    wait_for(lambda: cli.status("k")["finished"])
    assert cli.status("k")["verdict"]["cause"] == "hang"


def test_time_in_which_the_whole_machine_stood_still_is_no_silence(cli, program):
    words = program("import time\nfor _ in range(40): print('x', flush=True); time.sleep(0.1)")
    cli("launch", "--name", "p", "--detach", "--hang-after", "4", "--", *words)
    wait_for(lambda: any(event["kind"] == "progress" for event in cli.events("p")))  # it has looked once
    pids = [cli.supervisor_pid("p"), *cli.rank_pids("p", 1)]
    for pid in reversed(pids):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(5)  # longer than the limit: that is the case
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.5)  # the supervisor looks before the rank could say a word
    wait_for(lambda: cli.status("p")["finished"])
    assert cli.status("p")["outcome"] == "succeeded"


def test_a_loss_that_is_no_number_is_told_once_of_each_rank_and_shown(cli, program):
    source = "for step in range(9): print(f'epoch: 1 step: {step}, loss is', 'nan' if step > 3 else '0.5', flush=True)"
    cli("launch", "--devices", "2", "--name", "n", "--", *program(source))
    told = [event for event in cli.events("n") if event["kind"] == "nan_loss"]
    assert sorted((event["rank"], event["data"]["step"]) for event in told) == [(0, 4), (1, 4)]
    assert "rank 1 told a loss that is no number" in cli("status", "n").stdout


def test_a_slow_rank_is_shown_and_left_alone(cli, program):
    source = (
        "import json, os, time\n"
        "with open(os.environ['ASCENDRUN_PROGRESS'], 'a') as file:\n"
        "    for step in range(100):\n"
        "        took = 0.05 if os.environ['RANK'] == '2' else 0.02\n"
        "        print(json.dumps({'kind': 'step', 'epoch': 1, 'step': step, 'step_s': took}), file=file, flush=True)\n"
        "        time.sleep(took)\n"
    )
    cli("launch", "--devices", "3", "--name", "slow", "--", *program(source))
    assert [event["rank"] for event in cli.events("slow") if event["kind"] == "straggler"] == [2]
    assert "rank 2 is slow" in cli("status", "slow").stdout
    assert cli.status("slow")["outcome"] == "succeeded"


@pytest.mark.parametrize("fault", ["os.kill(os.getpid(), 11)", "raise ValueError('boom')"])
def test_a_dead_rank_is_noticed_within_300_ms(cli, ranks, fault):
    cli("launch", "--devices", "3", "--name", "d", "--", *ranks(fault), code=1)
    told = next(event for event in cli.events("d") if event["kind"] == "process_exited")
    assert told["rank"] == 1
    assert told["mono"] - told["data"]["mono"] < 0.3
    assert cli.status("d")["verdict"]["rank"] == 1


@pytest.mark.parametrize("value", ["-1", "soon", "nan", "1e9"])
def test_a_limit_that_is_none_is_refused(cli, value):
    assert "Traceback" not in cli("launch", "--hang-after", value, "--", "true", code=2).stderr


# ── real MindSpore ───────────────────────────────────────────────────────────────────────────────────────────

ALL_REDUCE = """
import os
import numpy as np
import mindspore as ms
from mindspore import nn, ops
from mindspore.communication import get_rank, init

class Sum(nn.Cell):
    def __init__(self):
        super().__init__()
        self.reduce = ops.AllReduce()

    def construct(self, x):
        return self.reduce(x)

ms.set_context(mode=ms.GRAPH_MODE)
ms.set_device("CPU")
init()
total = Sum()
for step in range(1, 10_000):
    total(ms.Tensor(np.full(300, 1.0, np.float32))).asnumpy()
    print(f"epoch: 1 step: {step}, loss is 0.5", flush=True)
    if step == 10 and get_rank() == 1:
        os.kill(os.getpid(), 19)
"""


@pytest.mark.timeout(300)
def test_a_mindspore_rank_that_waits_in_an_all_reduce_takes_no_blame(cli, program):
    if importlib.util.find_spec("mindspore") is None:
        pytest.skip("MindSpore is not installed for this Python")
    words = program(ALL_REDUCE)
    cli("launch", "--devices", "2", "--name", "ms", "--hang-after", "6", "--", *words, code=1)
    verdict = hung(cli, "ms")
    assert (verdict["cause"], verdict["rank"]) == ("hang", 1)
    waiting = next(rank for rank in cli.status("ms")["ranks"] if rank["rank_id"] == 0)
    assert waiting["stacks"]["in_collective"] is True, "told by the native frames alone"
