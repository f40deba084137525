"""Whole runs of `python -m sknet.train`, alone and as two ranks, and of `python -m sknet.eval` on what they leave."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sknet import checkpoint, dataset, sample
from sknet.model import build

TINY = (
    "--net=sknet_tiny",
    "--image_size=32",
    "--batch_size=16",
    "--epoch_size=3",
    "--warmup_epochs=1",
    "--save_checkpoint_epochs=2",
    "--bn_momentum=0.5",
    "--device_target=CPU",
)
STEP = re.compile(r"^epoch: (\d+) step: (\d+), loss is (\S+)$", re.MULTILINE)


def progress_of(path: Path, kind: str) -> list[dict]:
    return [line for line in map(json.loads, path.read_text().splitlines()) if line["kind"] == kind]


def test_two_ranks_train_evenly_and_leave_checkpoints_that_evaluation_reads(
    run_ranks, run_module, small_dataset: Path, tmp_path: Path
) -> None:
    ranks = run_ranks("-m", "sknet.train", f"--dataset_path={small_dataset}", *TINY)
    assert [rank.code for rank in ranks] == [0, 0, 0], ranks[0].errors[-2000:]
    steps = STEP.findall(ranks[0].output)
    assert steps == STEP.findall(ranks[1].output)
    assert [(int(epoch), int(step)) for epoch, step, _ in steps] == [(e, s) for e in (1, 2, 3) for s in (1, 2, 3, 4)]
    assert len(re.findall(r"^epoch time: \d+\.\d{3} ms, per step time: \d+\.\d{3} ms$", ranks[0].output, re.M)) == 3

    saved = [tmp_path / "ckpt" / f"sknet_tiny-{epoch}_4.ckpt" for epoch in (2, 3)]  # the last epoch is always saved
    assert checkpoint.find(tmp_path / "ckpt") == saved
    lines = [progress_of(tmp_path / f"progress{rank}.jsonl", "checkpoint") for rank in range(2)]
    assert [line["path"] for line in lines[0]] == [str(path) for path in saved]
    assert [line["bytes"] for line in lines[0]] == [path.stat().st_size for path in saved]
    assert lines[1] == []

    done = run_module(
        "sknet.eval",
        "--checkpoint_path=ckpt",
        f"--dataset_path={small_dataset}",
        ASCENDRUN_PROGRESS=str(tmp_path / "eval.jsonl"),
    )
    assert done.returncode == 0, done.stderr
    results = progress_of(tmp_path / "eval.jsonl", "evaluation")
    assert [(line["checkpoint"], line["epoch"], line["step"]) for line in results] == [
        (str(path), epoch, 4) for path, epoch in zip(saved, (2, 3), strict=True)
    ]
    for line, text in zip(results, done.stdout.splitlines(), strict=True):
        assert line["pictures"] == 70  # 32 at a time: the last, partial batch counts too
        assert text == (
            f"result: {{'top_5_accuracy': {line['top_5_accuracy']}, "
            f"'top_1_accuracy': {line['top_1_accuracy']}}} ckpt={line['checkpoint']}"
        )
        assert line["top_1_accuracy"] * 70 == pytest.approx(round(line["top_1_accuracy"] * 70), abs=1e-4)


def test_one_process_learns_the_sample_and_reports_every_step_to_a_machine(
    run_module, small_dataset: Path, tmp_path: Path
) -> None:
    path = tmp_path / "progress.jsonl"
    done = run_module(
        "sknet.train",
        f"--dataset_path={small_dataset}",
        *TINY,
        "--lr_end=0.001",
        ASCENDRUN_PROGRESS=str(path),
    )
    assert done.returncode == 0, done.stderr
    phases = [line["phase"] for line in progress_of(path, "phase")]
    assert phases == ["start", "compile", "train", "checkpoint", "train", "checkpoint", "finish"]
    steps, epochs = progress_of(path, "step"), progress_of(path, "epoch")
    assert [(line["epoch"], line["step"]) for line in steps] == [(e, s) for e in (1, 2, 3) for s in range(1, 9)]
    assert {(line["epochs"], line["steps"]) for line in steps} == {(3, 8)}
    assert steps[0]["lr"] == pytest.approx(0.01)
    assert steps[8]["lr"] == pytest.approx(0.1)
    assert steps[-1]["lr"] == pytest.approx(0.001)
    assert all(line["images_per_s"] == pytest.approx(16 / line["step_s"], rel=1e-5) for line in steps)
    assert all(0 <= line["wait_s"] < line["step_s"] for line in steps)
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    for line in progress_of(path, "checkpoint"):
        assert line["seconds"] == line["copy_s"] + line["write_s"]
        saved = Path(line["path"])
        checkpoint.verify(saved)
        told = json.loads(saved.with_suffix(".json").read_text())
        assert (told["epoch"], told["sha256"], told["bytes"]) == (line["epoch"], line["sha256"], line["bytes"])
        assert told["metrics"]["loss"] == epochs[line["epoch"] - 1]["loss"]
        assert f"checkpoint: {saved}, {line['bytes']} bytes, training waited" in done.stdout
    for line in epochs:
        mean = sum(step["loss"] for step in steps if step["epoch"] == line["epoch"]) / 8
        assert line["loss"] == pytest.approx(mean, rel=1e-5)
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    assert [float(loss) for _, _, loss in STEP.findall(done.stdout)] == pytest.approx(
        [s["loss"] for s in steps], rel=1e-6
    )


def test_training_after_a_checkpoint_starts_from_its_weights_and_its_epoch(
    run_module, small_dataset: Path, tmp_path: Path
) -> None:
    common = (f"--dataset_path={small_dataset}", *TINY)
    assert run_module("sknet.train", *common, "--save_checkpoint_path=first").returncode == 0
    done = run_module(
        "sknet.train",
        *common,
        "--save_checkpoint_path=second",
        "--pretrain_epoch_size=2",
        "--pre_trained=first/sknet_tiny-2_8.ckpt",
        ASCENDRUN_PROGRESS=str(tmp_path / "progress.jsonl"),
    )
    assert done.returncode == 0, done.stderr
    assert {line["epoch"] for line in progress_of(tmp_path / "progress.jsonl", "step")} == {3}
    assert [path.name for path in checkpoint.find(tmp_path / "second")] == ["sknet_tiny-3_8.ckpt"]
    refused = run_module("sknet.train", *common, "--pre_trained=first/sknet_tiny-2_8.ckpt", "--class_num=12")
    assert refused.returncode == 2
    assert "does not fit this net: 2 of 77 tensors differ, head.weight (10, 64) in" in refused.stderr.splitlines()[-1]


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(
    run_module, small_dataset: Path, tmp_path: Path
) -> None:
    path = tmp_path / "progress.jsonl"
    done = run_module(
        "sknet.train",
        f"--dataset_path={small_dataset}",
        *TINY,
        "--lr_init=1e30",
        "--lr_max=1e30",
        "--diverged_above=1e38",  # large but finite losses are another test's
        ASCENDRUN_PROGRESS=str(path),
    )
    assert done.returncode == 1
    last = progress_of(path, "step")[-1]
    assert last["loss"] is None
    assert f"at epoch 1 step {last['step']}" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("ckpt/*.ckpt"))


def test_a_finite_loss_that_explodes_stops_the_run_and_names_step_value_and_remedy(
    run_module, small_dataset: Path, tmp_path: Path
) -> None:
    done = run_module(
        "sknet.train",
        f"--dataset_path={small_dataset}",
        *TINY,
        "--diverged_above=2.2",  # a net that knows nothing starts at log(10) = 2.3
    )
    assert done.returncode == 1
    ((epoch, step, loss),) = STEP.findall(done.stdout)
    assert (epoch, step) == ("1", "1")
    assert done.stderr.splitlines()[-1] == (
        f"sknet.train: the loss is {float(loss):.6g} at epoch 1 step 1, above --diverged_above=2.2; "
        "lower --lr_max or lengthen --warmup_epochs"
    )


def test_checkpoints_every_few_steps_count_from_the_first_step_of_all(
    run_module, small_dataset: Path, tmp_path: Path
) -> None:
    done = run_module("sknet.train", f"--dataset_path={small_dataset}", *TINY, "--save_checkpoint_steps=9")
    assert done.returncode == 0, done.stderr
    names = [path.stem for path in checkpoint.find(tmp_path / "ckpt")]
    assert names == ["sknet_tiny-2_1", "sknet_tiny-3_2", "sknet_tiny-3_8"]  # the last step is always saved


def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_leaves_nothing_half_written(
    alone: dict[str, str], small_dataset: Path, tmp_path: Path
) -> None:
    """A limit on the size of files stands in for a full disk: the write itself fails, half-way."""
    program = (
        "import os, resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); "
        "from sknet.train import main; sys.exit(main(sys.argv[1:], os.environ))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"--dataset_path={small_dataset}", *TINY],
        cwd=tmp_path, env=alone, timeout=300, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"sknet.train: cannot write checkpoint {tmp_path / 'ckpt' / 'sknet_tiny-2_8.ckpt'}: File too large"
    )
    assert os.listdir(tmp_path / "ckpt") == []


def test_data_sink_is_refused_where_there_is_none(run_module, small_dataset: Path) -> None:
    done = run_module("sknet.train", f"--dataset_path={small_dataset}", *TINY, "--dataset_sink_mode=true")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "sknet.train: dataset_sink_mode true needs Ascend; on CPU use auto or false"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_run_with_a_checkpoint_of_the_step_it_was_at(
    alone: dict[str, str], small_dataset: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sknet.train", f"--dataset_path={small_dataset}", "--net=sknet_tiny", "--image_size=32",
         "--batch_size=16", "--epoch_size=10000", "--save_checkpoint_steps=3", "--device_target=CPU"],
        cwd=tmp_path, env=alone, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("checkpoint:"):
            break
    process.send_signal(number)  # inside a graph MindSpore answers SIGINT itself, with SIGTERM to its own process
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 75, errors
    epoch, step, _ = STEP.findall(output)[-1]
    saved = checkpoint.find(tmp_path / "ckpt")
    assert saved[-1].name == f"sknet_tiny-{epoch}_{step}.ckpt"
    assert errors.splitlines()[-1] == (
        f"sknet.train: asked to end: this is a checkpoint of epoch {epoch} step {step}, and --resume goes on from it"
    )
    for path in saved:
        assert checkpoint.describe(path).course is not None  # its CRC is right


def test_before_the_first_step_there_is_nothing_to_keep_and_sigterm_ends_the_process_at_once(
    alone: dict[str, str], small_dataset: Path, tmp_path: Path
) -> None:
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "sknet.train", f"--dataset_path={small_dataset}", *TINY],
        cwd=tmp_path, env={**alone, "ASCENDRUN_PROGRESS": f"/dev/fd/{write}"}, pass_fds=[write],
    )  # fmt: skip
    os.close(write)
    with open(read) as told:
        assert [json.loads(told.readline())["phase"] for _ in range(2)] == ["start", "compile"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
        assert told.read() == ""
    assert not checkpoint.found_in(tmp_path / "ckpt")


def test_no_checkpoint_is_written_when_none_is_wanted(run_module, small_dataset: Path, tmp_path: Path) -> None:
    done = run_module("sknet.train", f"--dataset_path={small_dataset}", *TINY, "--save_checkpoint=false")
    assert done.returncode == 0
    assert not (tmp_path / "ckpt").exists()


def test_what_mixed_precision_trained_is_read_with_and_without_it(run_module, small_dataset: Path) -> None:
    mixed = (f"--dataset_path={small_dataset}", *TINY, "--amp_level=O2")
    first = run_module("sknet.train", *mixed, "--save_checkpoint_path=first")
    assert first.returncode == 0, first.stderr
    assert len(STEP.findall(first.stdout)) == 24
    done = run_module("sknet.eval", f"--dataset_path={small_dataset}", "--checkpoint_path=first", "--amp_level=O0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("result:") == 2
    further = run_module(
        "sknet.train", *mixed, "--pre_trained=first/sknet_tiny-2_8.ckpt", "--pretrain_epoch_size=2",
        "--save_checkpoint=false",
    )  # fmt: skip
    assert further.returncode == 0, further.stderr
    loss_of = {(int(epoch), int(step)): float(loss) for epoch, step, loss in STEP.findall(further.stdout)}
    assert loss_of[3, 1] == pytest.approx(float(STEP.findall(first.stdout)[16][2]), rel=0.01)  # the same weights


@pytest.mark.parametrize(("harm", "says"), [("net", "does not fit this net"), ("damage", "damaged")])
def test_a_first_checkpoint_that_is_no_good_is_noticed_before_the_ranks_meet(
    run_module, small_dataset: Path, tmp_path: Path, harm: str, says: str
) -> None:
    """Nobody serves as the scheduler: who tried to meet the others would wait for it for minutes."""
    net = build("sknet_tiny", 7 if harm == "net" else 10)
    origin = checkpoint.Origin("sknet_tiny", net.head.out_channels, 32, 1, 4)
    path = checkpoint.Keeper(tmp_path, 1).save(checkpoint.tensors_of(net), origin).path
    if harm == "damage":
        os.truncate(path, path.stat().st_size // 2)
    done = run_module(
        "sknet.train", f"--dataset_path={small_dataset}", *TINY, f"--pre_trained={path}",
        MS_ROLE="MS_WORKER", MS_SCHED_HOST="127.0.0.1", MS_SCHED_PORT="1", MS_WORKER_NUM="2", MS_NODE_ID="0",
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert says in done.stderr.splitlines()[-1]


def test_labels_are_compared_with_the_classes_that_the_checkpoint_knows(run_module, tmp_path: Path) -> None:
    folder = tmp_path / "data" / dataset.TEST[0]
    folder.mkdir(parents=True)
    (folder / "test_batch.bin").write_bytes(b"".join(bytes([label]) + bytes(3072) for label in (1, 4, 99)))
    done = {}
    for class_num in (5, 100):
        keeper = checkpoint.Keeper(tmp_path / f"of-{class_num}", 1)
        checkpoint.prepare_folder(tmp_path / f"of-{class_num}")
        tensors = checkpoint.tensors_of(build("sknet_tiny", class_num))
        path = keeper.save(tensors, checkpoint.Origin("sknet_tiny", class_num, 32, 1, 4)).path
        done[class_num] = run_module("sknet.eval", "--dataset_path=data", f"--checkpoint_path={path}")
    assert done[100].returncode == 0, done[100].stderr
    assert done[5].returncode == 2
    assert "picture 2 has label 99, but class_num is 5" in done[5].stderr.splitlines()[-1]


def test_evaluating_again_whatever_the_checkpoint_finds_the_compiled_graph(run_module, tmp_path: Path) -> None:
    sample.make(tmp_path / "data", 10, 10)
    cached = {"MS_COMPILER_CACHE_ENABLE": "1", "MS_COMPILER_CACHE_PATH": str(tmp_path / "cache")}
    results = []
    for seed in (1, 2):
        tensors = checkpoint.tensors_of(build("sknet_tiny", 10, seed=seed))
        path = checkpoint.Keeper(tmp_path, 2).save(tensors, checkpoint.Origin("sknet_tiny", 10, 32, seed, 4)).path
        for variables in (cached, {}):
            done = run_module(
                "sknet.eval", "--dataset_path=data", f"--checkpoint_path={path}",
                ASCENDRUN_PROGRESS=str(tmp_path / "progress.jsonl"), **variables,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            results.append(progress_of(tmp_path / "progress.jsonl", "evaluation")[-1]["loss"])
    assert results[0] == results[1] != results[2] == results[3]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert len(list((tmp_path / "cache").rglob("*.mindir"))) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--checkpoint_path is required"),
        (("--checkpoint_path=nowhere",), "no checkpoint at nowhere"),
    ],
)
def test_evaluation_without_a_checkpoint_is_refused_at_once(run_module, arguments: tuple[str, ...], says: str) -> None:
    done = run_module("sknet.eval", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert says in done.stderr
