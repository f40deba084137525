from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from sknet.config import Config
from sknet.distributed import World, join, whole_machine, world_of
from sknet.errors import InputError, SknetError

SCRIPT = Path(__file__).with_name("ranks_without_batch_norm.py")


@pytest.mark.parametrize(
    ("environment", "config", "world"),
    [
        ({}, Config(), World(0, 1, 0)),
        ({"DEVICE_ID": "5"}, Config(), World(0, 1, 5)),
        ({"RANK_SIZE": "1", "RANK_ID": "0"}, Config(), World(0, 1, 0)),
        ({"RANK_SIZE": "8", "RANK_ID": "3", "DEVICE_ID": "1"}, Config(), World(3, 8, 1)),
        ({"MS_WORKER_NUM": "4", "MS_NODE_ID": "2"}, Config(), World(2, 4, 0)),
        ({"RANK_SIZE": "4", "MS_WORKER_NUM": "4", "RANK_ID": "1"}, Config(device_num=4), World(1, 4, 0)),
        ({"RANK_ID": "6", "DEVICE_ID": "6"}, Config(run_distribute=True, device_num=8), World(6, 8, 6)),
        ({"DEVICE_ID": "6"}, Config(run_distribute=True, device_num=8), World(6, 8, 6)),
    ],
)
def test_a_rank_knows_itself_from_its_environment(environment: dict[str, str], config: Config, world: World) -> None:
    assert world_of(config, environment) == world


@pytest.mark.parametrize(
    ("environment", "config", "says"),
    [
        ({"RANK_SIZE": "two"}, Config(), "RANK_SIZE is 'two'"),
        ({"RANK_SIZE": "2", "RANK_ID": "2"}, Config(), "RANK_ID 2 must be below RANK_SIZE 2"),
        ({"RANK_SIZE": "\u00b2"}, Config(), "not a whole number"),
        ({"RANK_SIZE": "2", "RANK_ID": "0"}, Config(device_num=8), "RANK_SIZE=2, --device_num=8 disagree"),
        ({"RANK_SIZE": "2", "MS_WORKER_NUM": "4"}, Config(), "RANK_SIZE=2, MS_WORKER_NUM=4 disagree"),
        ({"DEVICE_ID": "3"}, Config(run_distribute=True), "run_distribute needs RANK_SIZE or --device_num"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(
    environment: dict[str, str], config: Config, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        world_of(config, environment)


def test_a_cluster_that_numbers_a_rank_differently_is_an_error_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("init", None), ("get_rank", 0), ("get_group_size", 2)):
        monkeypatch.setattr(f"mindspore.communication.{name}", lambda value=value: value)
    with pytest.raises(SknetError, match=r"rank 0 of 2, its environment 1 of 2; .*--node_rank"):
        join(World(1, 2), "Ascend", {})


def test_the_cpu_affinity_comes_back_after_joining() -> None:
    before = os.sched_getaffinity(0)

    def pinned() -> None:
        os.sched_setaffinity(0, {min(before)})
        with whole_machine():
            assert os.sched_getaffinity(0) >= before
        assert os.sched_getaffinity(0) == {min(before)}

    thread = threading.Thread(target=pinned)
    thread.start()
    thread.join()
    assert os.sched_getaffinity(0) == before


def losses(output: str) -> list[float]:
    return [float(number) for number in re.findall(r"^loss (\S+)$", output, re.MULTILINE)]


@pytest.mark.parametrize("way", ["packed", "fused"])
def test_two_ranks_do_what_one_rank_with_twice_the_batch_does(run_ranks, small_dataset: Path, way: str) -> None:
    ranks = run_ranks(str(SCRIPT), str(small_dataset), "32", way)
    assert [rank.code for rank in ranks] == [0, 0, 0], ranks[0].errors[-2000:]
    from conftest import plain_environment

    alone = subprocess.run(
        [sys.executable, str(SCRIPT), str(small_dataset), "64", way],
        env=plain_environment(),
        text=True,
        capture_output=True,
        timeout=300,
        check=True,
    )
    assert len(losses(alone.stdout)) == 8
    assert losses(ranks[0].output) == losses(ranks[1].output)
    assert np.allclose(losses(ranks[0].output), losses(alone.stdout), rtol=1e-4)


def test_ranks_without_a_scheduler_say_what_they_need(run_module, small_dataset: Path) -> None:
    done = run_module(
        "sknet.train",
        f"--dataset_path={small_dataset}",
        "--net=sknet_tiny",
        "--image_size=32",
        "--run_distribute=True",
        "--device_num=2",
    )
    assert done.returncode == 2
    assert "MS_SCHED_HOST" in done.stderr.splitlines()[-1]


def test_the_scheduler_of_a_single_worker_does_not_wait_for_it(run_module) -> None:
    done = run_module(
        "sknet.train", MS_ROLE="MS_SCHED", MS_WORKER_NUM="1", MS_SCHED_HOST="127.0.0.1", MS_SCHED_PORT="1"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
