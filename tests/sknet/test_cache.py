from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sknet.cache import graph_key, separate
from sknet.config import Config
from sknet.distributed import World


def test_graphs_that_differ_never_share_a_cache_folder() -> None:
    config = Config()
    others = [
        replace(config, **{name: value})
        for name, value in (
            ("net", "sknet26"), ("class_num", 9), ("image_size", 32), ("batch_size", 16), ("momentum", 0.5),
            ("weight_decay", 0.0), ("loss_scale", 1.0), ("bn_momentum", 0.5), ("amp_level", "O2"),
            ("device_target", "Ascend"),
        )
    ]  # fmt: skip
    keys = [graph_key("train", [each], World()) for each in [config, *others]]
    keys += [graph_key("eval", [config], World()), graph_key("train", [config], World(1, 2))]
    keys += [graph_key("train", several, World()) for several in ([config, others[0]], [others[0], config])]
    assert len(set(keys)) == len(keys)


def test_what_is_no_part_of_the_graph_keeps_its_cache() -> None:
    other = Config(epoch_size=30, lr_max=0.2, seed=5, save_checkpoint_path="elsewhere", dataset_path="there")
    assert graph_key("train", [other], World()) == graph_key("train", [Config()], World())


def test_unlike_machines_that_share_a_home_share_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    here = graph_key("train", [Config()], World())
    monkeypatch.setattr("platform.machine", lambda: "another")
    assert graph_key("train", [Config()], World()) != here


def test_only_a_cache_that_is_wanted_gets_a_folder() -> None:
    path = {"MS_COMPILER_CACHE_PATH": "/cache"}
    for environment in ({}, path, {"MS_COMPILER_CACHE_ENABLE": "1"}, {**path, "MS_COMPILER_CACHE_ENABLE": "0"}):
        before = dict(environment)
        separate(environment, "train", [Config()], World())
        assert environment == before
    environment = {**path, "MS_COMPILER_CACHE_ENABLE": "1"}
    separate(environment, "train", [Config()], World())
    assert Path(environment["MS_COMPILER_CACHE_PATH"]).parent == Path("/cache")


def test_a_second_run_with_other_rates_and_more_steps_is_served_by_the_cache_and_right(
    run_module, small_dataset: Path, tmp_path: Path
) -> None:
    def losses(cached: str, *arguments: str) -> list[str]:
        done = run_module(
            "sknet.train", f"--dataset_path={small_dataset}", "--net=sknet_tiny", "--image_size=32", "--batch_size=16",
            "--save_checkpoint=false", "--warmup_epochs=0", *arguments,
            MS_COMPILER_CACHE_ENABLE=cached, MS_COMPILER_CACHE_PATH=str(tmp_path / "cache"),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return [line for line in done.stdout.splitlines() if "loss is" in line]

    losses("1", "--epoch_size=1", "--lr_max=0.01")
    assert losses("1", "--epoch_size=2", "--lr_max=0.1") == losses("0", "--epoch_size=2", "--lr_max=0.1")
