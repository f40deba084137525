"""Runs that stop and go on, as real processes, and what may and may not change between the two."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from sknet import checkpoint, resume
from sknet.checkpoint import Course, Keeper, Origin, tensors_of
from sknet.config import Config
from sknet.distributed import World
from sknet.errors import InputError, SknetError
from sknet.model import build

TINY = (
    "--net=sknet_tiny", "--image_size=32", "--batch_size=16", "--epoch_size=3", "--warmup_epochs=1",
    "--bn_momentum=0.5", "--device_target=CPU", "--lr_decay_mode=cosine", "--label_smooth_factor=0.1",
)  # fmt: skip
STEP = re.compile(r"^epoch: (\d+) step: (\d+), loss is (\S+)$", re.MULTILINE)


def progress_of(path: Path, kind: str) -> list[dict]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [told for told in map(json.loads, lines) if told["kind"] == kind]


def wait_until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_resumed_run_gives_the_losses_of_an_unbroken_one_from_the_midst_of_an_epoch_and_from_its_end(
    run_module, small_dataset: Path, tmp_path: Path
) -> None:
    common = (f"--dataset_path={small_dataset}", *TINY)
    whole = run_module("sknet.train", *common, "--save_checkpoint_path=whole", "--save_checkpoint_steps=4")
    assert whole.returncode == 0, whole.stderr[-2000:]
    steps = STEP.findall(whole.stdout)
    assert len(steps) == 24
    for name, done in (("2_4", 12), ("1_8", 8)):
        again = run_module(
            "sknet.train", *common, f"--save_checkpoint_path=after-{name}", "--save_checkpoint_epochs=1",
            f"--resume=whole/sknet_tiny-{name}.ckpt", ASCENDRUN_PROGRESS=str(tmp_path / f"{name}.jsonl"),
        )  # fmt: skip
        assert again.returncode == 0, again.stderr[-2000:]
        assert STEP.findall(again.stdout) == steps[done:]
        first, last = (
            checkpoint.read_all(tmp_path / folder / "sknet_tiny-3_8.ckpt") for folder in ("whole", f"after-{name}")
        )
        assert set(first) == set(last)
        assert all(np.array_equal(first[key].asnumpy(), last[key].asnumpy()) for key in first)
        told = [
            checkpoint.sidecar_of(tmp_path / folder / "sknet_tiny-2_8.ckpt") for folder in ("whole", f"after-{name}")
        ]
        assert told[0]["metrics"] == told[1]["metrics"]  # the mean of the whole epoch, though half of it was before
        assert told[0]["run"] == told[1]["run"]
    complete = run_module("sknet.train", *common, "--resume=whole")
    assert complete.returncode == 0
    assert "sknet_tiny-3_8.ckpt: this run is complete, all 3 epochs" in complete.stdout
    refused = run_module("sknet.train", *common, "--resume=whole", "--seed=2", "--lr_max=0.2")
    assert refused.returncode == 2
    assert "here lr_max 0.2, not 0.1; seed 2, not 1 as there" in refused.stderr.splitlines()[-1]


def test_a_resumed_run_keeps_its_dynamic_loss_scale(run_module, small_dataset: Path) -> None:
    common = (
        f"--dataset_path={small_dataset}", *TINY, "--amp_level=O1", "--loss_scale_mode=dynamic",
        "--loss_scale=16777216", "--loss_scale_window=3", "--save_checkpoint_steps=7",
    )  # fmt: skip
    whole = run_module("sknet.train", *common)
    assert whole.returncode == 0, whole.stderr[-2000:]
    assert "the update of epoch 1 step 1 is skipped: loss scale 1.67772e+07 made its gradients overflow" in whole.stdout
    again = run_module("sknet.train", *common, "--resume=ckpt/sknet_tiny-1_7.ckpt", "--save_checkpoint=false")
    assert STEP.findall(again.stdout) == STEP.findall(whole.stdout)[7:]


def test_two_ranks_of_which_one_is_asked_to_end_end_together_and_resume_as_if_they_had_never_stopped(
    run_ranks, run_module, small_dataset: Path, tmp_path: Path
) -> None:
    """Another SIGTERM to both, while they end, changes nothing. One rank then takes the pictures of the two."""
    common = (
        "-m", "sknet.train", f"--dataset_path={small_dataset}", *TINY[:3], *TINY[4:], "--epoch_size=24",
        "--amp_level=O1", "--loss_scale_mode=dynamic", "--loss_scale=16777216", "--loss_scale_window=9",
    )  # fmt: skip

    cached = {"MS_COMPILER_CACHE_ENABLE": "1", "MS_COMPILER_CACHE_PATH": str(tmp_path / "cache")}

    def ask_one(processes: list[subprocess.Popen[str]]) -> None:
        wait_until(lambda: len(progress_of(tmp_path / "progress1.jsonl", "step")) > 9)
        processes[1].send_signal(signal.SIGTERM)
        for process in processes[:2]:
            with suppress(OSError, subprocess.TimeoutExpired):
                process.wait(0.3)
            process.send_signal(signal.SIGTERM)

    whole = run_ranks(*common, "--save_checkpoint_path=whole", **cached)
    assert [rank.code for rank in whole] == [0] * 3, whole[0].errors[-2000:]
    losses = STEP.findall(whole[0].output)
    for rank in range(2):
        (tmp_path / f"progress{rank}.jsonl").unlink()

    broken = run_ranks(*common, meanwhile=ask_one, **cached)
    assert [rank.code for rank in broken[:2]] == [75, 75], broken[0].errors[-2000:]
    done = len(STEP.findall(broken[0].output))
    assert 9 < done < len(losses)
    assert all(STEP.findall(rank.output) == losses[:done] for rank in broken[:2])
    epoch, number = losses[done - 1][:2]
    assert f"asked to end: this is a checkpoint of epoch {epoch} step {number}" in broken[0].errors
    saved = checkpoint.find(tmp_path / "ckpt")[-1]
    assert saved.name == f"sknet_tiny-{epoch}_{number}.ckpt"
    told = progress_of(tmp_path / "progress0.jsonl", "checkpoint")[-1]
    assert (told["path"], told["epoch"], told["step"]) == (str(saved), int(epoch), int(number))
    assert (told["global_step"], told["bytes"]) == (done, saved.stat().st_size)
    assert told["sha256"] == hashlib.sha256(saved.read_bytes()).hexdigest()

    again = run_ranks(*common, "--save_checkpoint_path=again", ASCENDRUN_RESUME=str(saved), **cached)
    assert [rank.code for rank in again] == [0] * 3, again[0].errors[-2000:]
    assert all(STEP.findall(rank.output) == losses[done:] for rank in again[:2])
    first, last = (checkpoint.read_all(checkpoint.find(tmp_path / name)[-1]) for name in ("whole", "again"))
    assert set(first) == set(last)
    assert all(np.array_equal(first[key].asnumpy(), last[key].asnumpy()) for key in first)

    alone = run_module("sknet.train", *common[2:], "--save_checkpoint_path=alone", ASCENDRUN_RESUME=str(saved))
    assert alone.returncode == 0, alone.stderr[-2000:]
    assert STEP.findall(alone.stdout) == losses[done:]  # two gradients have the same sum in any order
    sidecar = checkpoint.sidecar_of(checkpoint.find(tmp_path / "alone")[-1])
    assert (sidecar["global_batch"], sidecar["ranks"], sidecar["steps_per_epoch"]) == (32, 2, 4)


def course(config: Config) -> Course:
    return Course("a run", 8, 1, 130, 1.0, resume.settings_of(config))


def start(config: Config) -> resume.Start:
    return resume.Start(Path("x.ckpt"), Origin("sknet50", 10, 224, 2, 4), course(config))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"net": "sknet26"}, "net sknet26, not sknet50"),
        ({"class_num": 12}, "class_num 12, not 10"),
        ({"image_size": 32}, "image_size 32, not 224"),
        ({"batch_size": 16}, "batch_size 16, not 32"),
        ({"epoch_size": 30}, "epoch_size 30, not 90"),
        ({"lr_decay_mode": "cosine"}, "lr_decay_mode cosine, not poly"),
        ({"seed": 2, "momentum": 0.8}, "momentum 0.8, not 0.9; seed 2, not 1"),
        ({"amp_level": "O2"}, "amp_level O2, not auto"),
    ],
)
def test_what_shapes_the_course_of_a_run_cannot_change(change: dict, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"cannot resume from x.ckpt: here {says} as there")):
        resume.check(start(Config()), dataclasses.replace(Config(), **change), 8, 1, 130)


def test_pictures_cannot_change_and_paths_and_saving_can() -> None:
    with pytest.raises(InputError, match="here training pictures 131, not 130 as there"):
        resume.check(start(Config()), Config(), 8, 1, 131)
    other = Config(
        dataset_path="there", save_checkpoint_path="elsewhere", save_checkpoint_steps=3, keep_checkpoint_max=1,
        device_target="CPU", diverged_above=9.0, resume="x.ckpt",
    )  # fmt: skip
    resume.check(start(Config()), other, 8, 1, 130)


@pytest.mark.parametrize(
    ("ranks", "given", "batch", "parts"),
    [(1, 8, 32, 4), (2, 8, 16, 2), (2, 16, 16, 1), (4, 8, 8, 1), (8, 8, 4, 1)],
)
def test_other_ranks_take_the_pictures_of_the_ranks_that_began(ranks: int, given: int, batch: int, parts: int) -> None:
    begun = dataclasses.replace(
        start(Config()), course=Course("a run", 4, 4, 130, 1.0, resume.settings_of(Config(batch_size=8)))
    )
    config = resume.shared_out(begun, Config(batch_size=given), ranks)
    assert (config.batch_size, config.accumulate) == (batch, parts)
    resume.check(begun, config, 4, ranks, 130)


@pytest.mark.parametrize(
    ("ranks", "given", "says"),
    [
        (3, 8, "cannot resume from x.ckpt on 3 ranks: its 8 pictures a step cannot be shared out evenly; take 1, 2, 4"),
        (2, 16, "cannot resume from x.ckpt: here batch_size 16, not 4 as there"),
    ],
)
def test_ranks_that_cannot_take_the_same_pictures_are_refused(ranks: int, given: int, says: str) -> None:
    begun = dataclasses.replace(
        start(Config()), course=Course("a run", 16, 1, 130, 1.0, resume.settings_of(Config(batch_size=8)))
    )
    with pytest.raises(InputError, match=re.escape(says)):
        resume.check(begun, resume.shared_out(begun, Config(batch_size=given), ranks), 16, ranks, 130)


@pytest.mark.parametrize(
    ("config", "environment", "path"),
    [
        (Config(), {}, None),
        (Config(), {"ASCENDRUN_RESUME": ""}, None),
        (Config(), {"ASCENDRUN_RESUME": "/a"}, "/a"),
        (Config(resume="/b"), {"ASCENDRUN_RESUME": "/a"}, "/b"),
        (Config(pre_trained="/c", pretrain_epoch_size=2), {"ASCENDRUN_RESUME": "/a"}, "/a"),
    ],
)
def test_the_environment_says_what_to_resume_unless_the_command_line_does(
    config: Config, environment: dict[str, str], path: str | None
) -> None:
    assert resume.wanted(config, environment).resume == path


def test_a_setting_that_is_newer_than_the_checkpoint_had_its_default() -> None:
    settings = resume.settings_of(Config())
    del settings["label_smooth_factor"]
    old = dataclasses.replace(start(Config()), course=dataclasses.replace(course(Config()), settings=settings))
    resume.check(old, Config(), 8, 1, 130)
    with pytest.raises(InputError, match=r"label_smooth_factor 0\.1, not 0"):
        resume.check(old, Config(label_smooth_factor=0.1), 8, 1, 130)


def test_the_newest_whole_checkpoint_of_a_folder_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keeper = Keeper(tmp_path, 9)
    paths = [
        keeper.save(tensors_of(build("sknet_tiny", 10)), Origin("sknet_tiny", 10, 32, epoch, 8), course(Config())).path
        for epoch in (1, 2, 10)
    ]
    os.truncate(paths[2], paths[2].stat().st_size // 2)
    assert resume.newest(tmp_path).path == paths[1]
    assert f"passed over: {paths[2]} is damaged: its SHA-256 is not the one in" in capsys.readouterr().err
    with pytest.raises(InputError, match=re.escape(f"{paths[2]} is damaged")):
        resume.newest(paths[2])
    paths[2].with_suffix(".json").unlink()  # its own checksum is looked at all the same
    with pytest.raises(InputError, match=re.escape(f"{paths[2]} is cut short")):
        resume.newest(paths[2])
    content = bytearray(paths[1].read_bytes())
    content[len(content) // 2] ^= 1
    paths[1].write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{paths[1]} is damaged")):
        resume.newest(paths[1])
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"no checkpoint in .* is whole"):
        resume.newest(tmp_path)


def test_weights_alone_are_nothing_to_resume_from(tmp_path: Path) -> None:
    tensors = tensors_of(build("sknet_tiny", 10))
    path = Keeper(tmp_path, 1).save(tensors, Origin("sknet_tiny", 10, 32, 2, 8)).path
    with pytest.raises(InputError, match=f"--pre_trained={path} --pretrain_epoch_size=EPOCHS"):
        resume.newest(path)


def test_ranks_that_would_resume_from_different_files_all_say_so(tmp_path: Path) -> None:
    starts = []
    for rank, content in enumerate((b"one", b"other")):
        path = tmp_path / f"of-rank-{rank}.ckpt"
        path.write_bytes(content)
        starts.append(dataclasses.replace(start(Config()), path=path))
    told: list[np.ndarray] = []
    for rank in range(2):
        resume.agree(starts[rank], World(rank, 2), lambda own: told.append(own) or np.tile(own[:4] + own[4:], 2))
    for rank in range(2):
        with pytest.raises(SknetError, match="different checkpoints"):
            resume.agree(starts[rank], World(rank, 2), lambda own: told[0] + told[1])
