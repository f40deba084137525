from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import pytest

from sknet.cache import SHAPING, graph_key, separate
from sknet.config import FREE_ON_RESUME, Config
from sknet.distributed import World


def test_graphs_that_differ_never_share_a_cache_folder() -> None:
    config = Config()
    others = [
        replace(config, **{name: value})
        for name, value in (
            ("net", "sknet26"), ("class_num", 9), ("image_size", 32), ("batch_size", 16), ("momentum", 0.5),
            ("weight_decay", 0.0), ("loss_scale", 1.0), ("bn_momentum", 0.5), ("amp_level", "O2"),
            ("device_target", "Ascend"), ("label_smooth_factor", 0.1), ("loss_scale_mode", "dynamic"),
            ("loss_scale_window", 5), ("dataset_sink_mode", "true"),
        )
    ]  # fmt: skip
    keys = [graph_key("train", [each], World()) for each in [config, *others]]
    keys += [graph_key("eval", [config], World()), graph_key("train", [config], World(1, 2))]
    keys += [graph_key("train", several, World()) for several in ([config, others[0]], [others[0], config])]
    assert len(set(keys)) == len(keys)


def test_what_is_no_part_of_the_graph_keeps_its_cache() -> None:
    other = Config(
        epoch_size=30, lr_max=0.2, seed=5, save_checkpoint_path="elsewhere", dataset_path="there", resume="x.ckpt",
        lr_decay_mode="steps", lr_decay_epochs="20", diverged_above=5.0, save_checkpoint_steps=3,
    )  # fmt: skip
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


def test_every_setting_is_part_of_the_graph_or_known_to_change_nothing_in_it() -> None:
    outside = {
        "epoch_size", "lr_decay_mode", "lr_decay_epochs", "lr_decay_factor", "lr_init", "lr_max", "lr_end",
        "warmup_epochs", "seed",
    }  # fmt: skip
    outside |= set(FREE_ON_RESUME) - set(SHAPING)
    assert {item.name for item in fields(Config)} == set(SHAPING) | outside
    assert not set(SHAPING) & outside


HARM = {
    "cut short": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "garbage": lambda data: random.Random(1).randbytes(len(data)),
    "a bit changed": lambda data: (
        data[: len(data) // 3] + bytes([data[len(data) // 3] ^ 4]) + data[len(data) // 3 + 1 :]
    ),
}


def cached_losses(run_module, dataset_path: Path, cache: Path) -> list[str]:
    done = run_module(
        "sknet.train", f"--dataset_path={dataset_path}", "--net=sknet_tiny", "--image_size=32", "--batch_size=16",
        "--save_checkpoint=false", "--warmup_epochs=0", "--epoch_size=1",
        MS_COMPILER_CACHE_ENABLE="1", MS_COMPILER_CACHE_PATH=str(cache),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [line for line in done.stdout.splitlines() if "loss is" in line]


def test_a_damaged_cache_is_compiled_anew_and_changes_no_loss(run_module, small_dataset: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    right = cached_losses(run_module, small_dataset, cache)
    assert len(right) == 8
    whole = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    assert {path.suffix for path in whole} == {".mindir", ".hash"}
    for name, harm in HARM.items():
        for path, data in whole.items():
            path.chmod(0o600)
            path.write_bytes(harm(data))
        assert cached_losses(run_module, small_dataset, cache) == right, name


def test_two_processes_that_fill_one_cache_at_once_and_a_third_that_reads_it_are_right(
    run_module, small_dataset: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    with ThreadPoolExecutor(2) as both:
        first, second = both.map(lambda _: cached_losses(run_module, small_dataset, cache), range(2))
    assert first == second == cached_losses(run_module, small_dataset, cache)
    assert len(list(cache.iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_done_without(run_module, small_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert len(cached_losses(run_module, small_dataset, tmp_path / "cache")) == 8
