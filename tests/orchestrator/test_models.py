"""Which checkpoint, and whose module, `export` and `predict` take."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import models
from orchestrator.errors import RunNotFoundError, SpecError
from orchestrator.jobspec import JobSpec, ModuleSpec
from orchestrator.loneplan import lone_argv
from orchestrator.store import Run, Store

JOB = JobSpec(name="mine", module="mine.train", export=ModuleSpec("mine.export"), predict=ModuleSpec("mine.predict"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def run(tmp_path: Path, store: Store, make_run: Callable[..., Run]) -> Run:
    """A run with three checkpoints; the one of epoch 2 is the newest."""
    root = tmp_path / "runs" / "run"
    made = make_run(root, "run", ranks=1, spec=JOB)
    store.links.mkdir(parents=True)
    (store.links / "run").symlink_to(root)
    folder = root / "train" / "ckpt"
    folder.mkdir(parents=True)
    for age_s, name in enumerate(["net-2_5.ckpt", "net-10_5.ckpt", "net-1_5.ckpt"]):
        (folder / name).write_text("weights")
        os.utime(folder / name, (1000 - age_s, 1000 - age_s))
    (folder / ".net-3_5.unfinished.ckpt").write_text("half")
    return made


def test_of_a_run_the_newest_whole_checkpoint_is_taken(run: Run, store: Store) -> None:
    for what in ("run", None, str(run.run_dir.root)):
        chosen = models.choose(what, None, store)
        assert (chosen.path.name, chosen.spec) == ("net-2_5.ckpt", JOB)
        assert chosen.why == "the newest of run run; no evaluation has marked a best one"


def test_the_checkpoint_that_an_evaluation_marked_comes_before_newer_ones(run: Run, store: Store) -> None:
    folder = run.run_dir.root / "train" / "ckpt"
    (folder / "best.json").write_text(json.dumps({"checkpoint": "/elsewhere/ckpt/net-1_5.ckpt", "top_1_accuracy": 0.5}))
    chosen = models.choose("run", None, store)
    assert (chosen.path, chosen.why) == (folder / "net-1_5.ckpt", "marked as the best of run run")


@pytest.mark.parametrize("content", ["", "[]", '{"checkpoint": "gone.ckpt"}', '{"checkpoint": ".."}', "[" * 9999])
def test_a_mark_that_means_nothing_is_passed_over(run: Run, store: Store, content: str) -> None:
    (run.run_dir.root / "train" / "ckpt" / "best.json").write_text(content)
    assert models.choose("run", None, store).path.name == "net-2_5.ckpt"


def test_a_file_of_a_run_belongs_to_its_job_and_any_other_to_the_built_in_one(
    run: Run, store: Store, tmp_path: Path
) -> None:
    inside = run.run_dir.root / "train" / "ckpt" / "net-1_5.ckpt"
    outside = tmp_path / "model.onnx"
    outside.write_text("weights")
    assert models.choose(str(inside), None, store).spec == JOB
    chosen = models.choose(str(outside), None, store)
    assert chosen.spec.name == models.DEFAULT_JOB and chosen.spec.predict is not None
    assert models.choose(str(inside), "sknet50-cpu", store).spec.name == "sknet50-cpu", "--job overrules"


def test_a_plan_of_another_program_or_another_user_further_up_is_not_followed(
    run: Run, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside, inside = tmp_path / "model.onnx", run.run_dir.root / "train" / "ckpt" / "net-1_5.ckpt"
    outside.write_text("weights")
    (tmp_path / "plan.json").write_text('{"of": "another program"}')
    assert models.choose(str(outside), None, store).spec.name == models.DEFAULT_JOB
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(run.run_dir.plan).st_uid + 1)
    assert models.choose(str(inside), None, store).spec.name == models.DEFAULT_JOB


def test_what_is_neither_file_nor_run_is_refused(run: Run, store: Store) -> None:
    with pytest.raises(RunNotFoundError, match="no run named 'rum'; did you mean 'run'"):
        models.choose("rum", None, store)
    for path in (run.run_dir.root / "train" / "ckpt").iterdir():
        path.unlink()
    with pytest.raises(RunNotFoundError, match="run run has no checkpoint"):
        models.choose("run", None, store)


def test_a_job_without_the_module_or_whose_module_is_not_installed_is_refused(run: Run, store: Store) -> None:
    chosen = dataclasses.replace(models.choose("run", None, store), python=sys.executable)
    with pytest.raises(SpecError, match=r"module mine.export: not installed"):
        models.start_export(chosen, "onnx", None, {}, force=False)
    bare = dataclasses.replace(chosen, spec=JobSpec(name="bare", module="json"))
    with pytest.raises(SpecError, match="the job bare names no `predict:` module"):
        models.start_prediction(bare, ["a.png"], 5, {})


def test_a_lone_module_gets_its_own_config_then_what_we_say_then_the_words() -> None:
    module = ModuleSpec("m", {"batch_size": 4, "top": 1, "amp": False})
    argv = lone_argv(module, "python", {"top": 3, "model": "/a b", "dataset_path": None}, ["--json", "--", "-x.png"])
    assert argv == (
        "python", "-m", "m", "--batch_size=4", "--top=3", "--amp=false", "--model=/a b", "--json", "--", "-x.png"
    )  # fmt: skip
