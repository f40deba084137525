"""Real MindSpore with real collectives under `ascendrun launch`: programs of the user's, and SKNet50."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import SHARED

if importlib.util.find_spec("mindspore") is None:
    pytest.skip("MindSpore is not installed for this Python", allow_module_level=True)

ALL_REDUCE = """
import os, time
import numpy as np
import mindspore as ms
from mindspore import nn, ops
from mindspore.communication import get_group_size, get_rank, init

class Sum(nn.Cell):
    def __init__(self):
        super().__init__()
        self.reduce = ops.AllReduce()

    def construct(self, x):
        return self.reduce(x)

ms.set_context(mode=ms.GRAPH_MODE)
ms.set_device("CPU")
init()
total = Sum()(ms.Tensor(np.full(3, get_rank() + 1.0, np.float32)))
print("rank", get_rank(), "of", get_group_size(), "sum", float(total.asnumpy()[0]), flush=True)
folder = os.environ["MEET"]
open(os.path.join(folder, str(get_rank())), "w").close()
while len(os.listdir(folder)) < get_group_size():  # the last collective ends only when its peer is still there
    time.sleep(0.05)
time.sleep(1)
"""


@pytest.mark.timeout(300)
def test_a_program_that_meets_its_peers_gets_a_scheduler_when_it_asks(cli, program, tmp_path):
    (tmp_path / "meet").mkdir()
    cli.environment["MEET"] = str(tmp_path / "meet")
    cli("launch", "--devices", "2", "--name", "sum", "--", *program(ALL_REDUCE))
    assert sorted(line for line in cli("logs", "sum").stdout.splitlines() if " sum " in line) == [
        "[rank 0] rank 0 of 2 sum 3.0",
        "[rank 1] rank 1 of 2 sum 3.0",
    ]
    started = [event["data"]["process"] for event in cli.events("sum") if event["kind"] == "process_started"]
    assert sorted(started) == ["rank-0", "rank-1", "scheduler"]
    assert started[-1] == "scheduler", "not before a rank asked"


@pytest.mark.timeout(300)
def test_a_rank_that_fails_among_mindspore_peers_ends_the_run_within_seconds(cli, program, tmp_path):
    (tmp_path / "meet").mkdir()
    cli.environment["MEET"] = str(tmp_path / "meet")
    source = ALL_REDUCE.replace("folder = os", "if get_rank() == 1: os._exit(3)\nfolder = os")
    done = cli("launch", "--devices", "2", "--name", "bad", "--", *program(source), code=1)
    assert "rank 1, exit code 3" in done.stdout
    events = {(event["kind"], event.get("rank")): event["mono"] for event in cli.events("bad")}
    over = next(mono for (kind, _), mono in events.items() if kind == "run_finished")
    assert over - events["process_exited", 1] < 10, "the peer was not left to its own 30 s"


def losses(log: Path) -> "list[tuple[str, str, float]]":
    found = re.findall(r"^epoch: (\d+) step: (\d+), loss is (\S+)$", log.read_text(), re.MULTILINE)
    return [(epoch, step, float(loss)) for epoch, step, loss in found]


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real pictures in ../shared are not there")
def test_sknet50_learns_from_real_pictures_on_two_ranks_with_equal_losses(cli):
    data = SHARED / "cifar10-sample"
    cli(
        "launch", "sknet50-cpu", "--devices", "2", "--dataset", str(data), "--name", "real",
        "--set", "epoch_size=1", "--set", "warmup_epochs=0", timeout=1200,
    )  # fmt: skip
    first, second = (losses(cli.run_dir("real") / f"train_parallel{rank}/train.log") for rank in range(2))
    assert first == second, "both ranks report the same loss at every step"
    assert len(first) == 125
    values = [loss for _, _, loss in first]
    assert sum(values[-25:]) / 25 < sum(values[:25]) / 25 - 0.1, "the loss falls"

    out = cli("eval", "real", timeout=300).stdout
    result = re.search(r"^result: (\{.*\}) ckpt=(\S+)$", out, re.MULTILINE)
    assert result, out
    assert Path(result.group(2)).name == "sknet50-1_125.ckpt"
    assert "collected" in cli("collect", "real", "-o", "out").stderr
    manifest = json.loads((cli.folder / "out/manifest.json").read_text())
    assert manifest["evaluations"][0]["pictures"] == 1000
    check = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=cli.folder / "out", capture_output=True)
    assert check.returncode == 0
    again = json.loads(cli("eval", str(cli.folder / "out"), "--json", timeout=300).stdout)
    assert again[0]["top_1_accuracy"] == manifest["evaluations"][0]["top_1_accuracy"], "a collected run evaluates alike"
