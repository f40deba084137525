from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mindspore import nn

from sknet import checkpoint, sample
from sknet.checkpoint_file import sha256_of
from sknet.dataset import RECORD, TEST, Pictures, open_pictures
from sknet.eval import evaluate, load
from tests.sknet.models import save_trained

NAMES = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "fire truck"]


class Guess(nn.Cell):
    """Gives every picture the same logits: class 3 first, then 4, 5, 6, 7, the others last."""

    def construct(self, pictures):
        return pictures[:, 0, :1, 0] * 0 + self.logits

    def __init__(self) -> None:
        super().__init__()
        import mindspore as ms

        self.logits = ms.Tensor(np.array([[-9, -9, -9, 5, 4, 3, 2, 1, -9, -9]], np.float32))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """70 test pictures, and names for their classes."""
    folder = tmp_path / "pictures"
    sample.make(folder, 10, 70)
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    return folder


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A checkpoint of sknet_tiny for 10 classes, epoch 2, step 7, alone in its folder."""
    folder = tmp_path / "ckpt"
    folder.mkdir()
    return save_trained(folder)


@dataclass(frozen=True)
class Evaluated:
    """How an evaluation ended, what it printed, and the progress lines it wrote of checkpoints."""

    code: int
    output: str
    errors: str
    told: list[dict[str, Any]]


Evaluate = Callable[..., Evaluated]


@pytest.fixture
def run_eval(data: Path, tmp_path: Path, run_module: Callable[..., subprocess.CompletedProcess[str]]) -> Evaluate:
    """Return a function that evaluates a checkpoint or a folder of them in a process of its own."""

    def run(path: Path, *arguments: str) -> Evaluated:
        progress = tmp_path / "progress.jsonl"
        progress.unlink(missing_ok=True)
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        words = [f"--checkpoint_path={path}", f"--dataset_path={data}", "--batch_size=32", *arguments]
        variables = {"ASCENDRUN_PROGRESS": str(progress), "ASCENDRUN_WORK_FOLDER": str(work)}
        done = run_module("sknet.eval", *words, **variables)
        lines = [json.loads(line) for line in progress.read_text().splitlines()]
        told = [line for line in lines if line["kind"] == "evaluation"]
        return Evaluated(done.returncode, done.stdout, done.stderr, told)

    return run


def test_every_picture_counts_exactly_once_in_the_last_partial_batch_too() -> None:
    labels = [3] * 10 + [7] * 4 + [0] * 9  # 23 pictures, in batches of 5 the last is partial
    file = np.frombuffer(b"".join(bytes([label]) + bytes(3072) for label in labels), np.uint8).reshape(-1, RECORD)
    scores = evaluate(Guess(), Pictures((Path("test.bin"),), (file,), np.array([23])), 10, 32, 5)
    assert scores.pictures == 23
    assert scores.top_1_accuracy == 10 / 23
    assert scores.top_5_accuracy == 14 / 23
    assert scores.confusion[:, 3].tolist() == [9, 0, 0, 10, 0, 0, 0, 4, 0, 0]


def test_the_result_lies_beside_the_checkpoint_and_agrees_with_what_is_told(
    run_eval: Evaluate, trained: Path, data: Path
) -> None:
    done = run_eval(trained)
    [told] = done.told
    kept = json.loads(trained.with_name("sknet_tiny-2_7.eval.json").read_bytes())
    assert done.code == 0, done.errors
    assert (kept["version"], kept["checkpoint"], kept["sha256"]) == (1, trained.name, sha256_of(trained))
    assert (kept["dataset"], kept["pictures"], kept["class_num"], kept["image_size"]) == ("pictures", 70, 10, 32)
    assert (kept["net"], kept["epoch"], kept["step"]) == ("sknet_tiny", 2, 7)
    labels = open_pictures(str(data), TEST).read(np.arange(70))[1]
    confusion = np.array(kept["confusion"])
    assert confusion.sum(axis=1).tolist() == np.bincount(labels, minlength=10).tolist()
    assert kept["top_1_accuracy"] == confusion.trace() / 70
    assert [one["name"] for one in kept["per_class"]] == NAMES
    for number, one in enumerate(kept["per_class"]):
        assert (one["class"], one["pictures"]) == (number, confusion[number].sum())
        assert one["accuracy"] == confusion[number, number] / one["pictures"]
    assert told == {
        "kind": "evaluation",
        "checkpoint": str(trained),
        **{key: kept[key] for key in ("sha256", "epoch", "step", "top_1_accuracy", "top_5_accuracy", "loss")},
        "pictures": 70,
        "per_class_accuracy": [one["accuracy"] for one in kept["per_class"]],
        "json": str(trained.with_name("sknet_tiny-2_7.eval.json")),
        "png": str(trained.with_name("sknet_tiny-2_7.eval.png")),
    }
    assert Path(told["png"]).read_bytes().startswith(b"\x89PNG")
    scores = f"{{'top_5_accuracy': {kept['top_5_accuracy']}, 'top_1_accuracy': {kept['top_1_accuracy']}}}"
    assert f"result: {scores} ckpt={trained}\n" in done.output


def test_a_folder_is_evaluated_but_for_bad_checkpoints_which_are_named_with_exit_code_2(
    run_eval: Evaluate, trained: Path
) -> None:
    folder = trained.parent
    shutil.copy(trained, folder / "sknet_tiny-10_7.ckpt")
    (folder / "sknet_tiny-3_7.ckpt").write_bytes(trained.read_bytes()[:5000])
    save_trained(folder, "sknet_tiny", class_num=3).rename(folder / "sknet_tiny-4_7.ckpt")
    shutil.copy(folder / "sknet_tiny-10_7.ckpt", trained)  # save_trained wrote over it
    done = run_eval(folder)
    told, said = done.told, done.errors
    assert done.code == 2, said
    assert [Path(one["checkpoint"]).name for one in told if "error" not in one] == [
        "sknet_tiny-2_7.ckpt",
        "sknet_tiny-10_7.ckpt",
    ]
    assert {Path(one["checkpoint"]).name for one in told if "error" in one} == {
        "sknet_tiny-3_7.ckpt",
        "sknet_tiny-4_7.ckpt",
    }
    assert f"left out: {folder / 'sknet_tiny-3_7.ckpt'} is cut short, damaged" in said
    assert "has label 3, but class_num is 3" in said
    assert said.rstrip().endswith("2 of 4 checkpoints could not be evaluated, as told above")


def test_a_lone_checkpoint_of_another_net_is_one_error_that_says_which_tensors_differ(
    run_eval: Evaluate, trained: Path
) -> None:
    done = run_eval(trained, "--net=sknet26")
    [told] = done.told
    said = done.errors.splitlines()
    assert done.code == 2 and len(said) == 1
    assert "tensors differ, first stem.0.weight (8, 3, 7, 7) in the file" in said[0]
    assert told["error"] == said[0].removeprefix("sknet.eval: ")
    assert not list(trained.parent.glob("*.eval.*"))


def test_a_checkpoint_that_the_run_removes_meanwhile_is_passed_over(run_eval: Evaluate, trained: Path) -> None:
    gone = trained.with_name("sknet_tiny-1_7.ckpt")
    gone.symlink_to("removed.ckpt")  # in the list of files, and not to be had
    done = run_eval(trained.parent)
    assert done.code == 0, done.errors
    assert [one["checkpoint"] for one in done.told] == [str(trained)]
    assert f"passed over {gone}: it was removed meanwhile" in done.errors


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_again(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, count = checkpoint.read, []

    def read_and_replace(path: Path) -> object:
        weights = read(path)
        count.append(path)
        if len(count) == 1:
            shutil.copy(path, path.with_name("new"))
            path.with_name("new").replace(path)
        return weights

    monkeypatch.setattr(checkpoint, "read", read_and_replace)
    from sknet.model import build

    assert load(checkpoint.tensors_of(build("sknet_tiny", 10)), trained) == sha256_of(trained)
    assert len(count) == 2


def test_a_folder_that_cannot_be_written_loses_no_result(run_eval: Evaluate, trained: Path, tmp_path: Path) -> None:
    trained.with_name("sknet_tiny-2_7.eval.json").mkdir()  # as little to be replaced as a file on a read-only disk
    done = run_eval(trained)
    [told] = done.told
    assert done.code == 0
    assert told["json"] == str(tmp_path / "work/sknet_tiny-2_7.eval.json")
    assert json.loads(Path(told["json"]).read_bytes())["pictures"] == 70
    assert f"cannot write beside the checkpoint ({trained.parent}: Is a directory); the result is in" in done.errors
    (tmp_path / "work/sknet_tiny-2_7.eval.png").unlink()
    (tmp_path / "work/sknet_tiny-2_7.eval.png").mkdir()
    done = run_eval(trained)
    [told] = done.told
    assert done.code == 1 and told["json"] is None and told["pictures"] == 70
    assert "is printed but kept nowhere" in done.errors and "result: " in done.output


def test_the_true_class_is_always_among_the_first_five_of_three_classes(
    tmp_path: Path, run_eval: Evaluate, data: Path
) -> None:
    for path in data.glob("*/*.bin"):
        records = np.fromfile(path, np.uint8).reshape(-1, RECORD)
        records[:, 0] %= 3
        records.tofile(path)
    folder = tmp_path / "three"
    folder.mkdir()
    done = run_eval(save_trained(folder, class_num=3))
    [told] = done.told
    assert done.code == 0 and told["top_5_accuracy"] == 1.0
    kept = json.loads(Path(told["json"]).read_bytes())
    assert [one["name"] for one in kept["per_class"]] == ["0", "1", "2"], "ten names do not fit three classes"
