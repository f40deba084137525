from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.evaluations import best_of, mark_best, results_of, still_there, with_details
from orchestrator.store import Run
from orchestrator.supervisor import events
from orchestrator.supervisor.journal import Journal

MakeRun = Callable[..., Run]
Tell = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path, make_run: MakeRun) -> Run:
    return make_run(tmp_path / "run", ranks=1)


@pytest.fixture
def evaluated(run: Run, make_run: MakeRun) -> Tell:
    """Return a function that adds an evaluation, created at a time and on a dataset, with its results."""

    def tell(name: str, at: float, *results: "dict[str, Any]", dataset: Optional[str] = "/data") -> None:
        made = make_run(run.run_dir.evals / name, name=name, ranks=1)
        made.run_dir.plan.write_text(replace(made.plan, created_at=at, dataset=dataset).to_json())
        journal = Journal(made.run_dir.journal, "node1")
        for result in results:
            journal.append(events.EVALUATION, result, rank=0)
        journal.close()

    return tell


def scored(path: str, top_1: float, **more: Any) -> "dict[str, Any]":
    return {"checkpoint": path, "top_1_accuracy": top_1, **more}


def shares(run: Run) -> "list[tuple[str, float]]":
    return [(result["checkpoint"], result["top_1_accuracy"]) for result in results_of(run)]


def test_the_newest_evaluation_of_a_checkpoint_wins_whatever_its_folder_is_called(run: Run, evaluated: Tell) -> None:
    evaluated("z", 1.0, scored("/a.ckpt", 0.1), scored("/b.ckpt", 0.2))
    evaluated("a", 2.0, scored("/a.ckpt", 0.3))
    assert shares(run) == [("/b.ckpt", 0.2), ("/a.ckpt", 0.3)]


def test_a_copy_of_a_checkpoint_is_that_checkpoint_and_its_namesake_in_another_folder_is_not(
    run: Run, evaluated: Tell
) -> None:
    evaluated("1", 1.0, scored("/run/a.ckpt", 0.1, sha256="f"), scored("/other/a.ckpt", 0.2, sha256="e"))
    evaluated("2", 2.0, scored("/out/a.ckpt", 0.1, sha256="f"), scored("/out/b.ckpt", 0.4, sha256="f"))
    assert shares(run) == [("/other/a.ckpt", 0.2), ("/out/a.ckpt", 0.1), ("/out/b.ckpt", 0.4)]


def test_what_could_not_be_evaluated_or_read_is_no_result_and_hides_none(run: Run, evaluated: Tell) -> None:
    evaluated("1", 1.0, scored("/a.ckpt", 0.1))
    evaluated("2", 2.0, {"checkpoint": "/a.ckpt", "error": "cut short"})
    (run.run_dir.evals / "best.json").write_text("{}")
    (run.run_dir.evals / "begun").mkdir()
    (run.run_dir.evals / "torn").mkdir()
    (run.run_dir.evals / "torn" / "plan.json").write_text('{"spec"')
    assert shares(run) == [("/a.ckpt", 0.1)]


def test_what_a_program_tells_of_itself_while_it_trains_counts_too(run: Run, evaluated: Tell) -> None:
    journal = Journal(run.run_dir.journal, "node1")
    journal.append(events.EVALUATION, {"top_1_accuracy": 0.5}, rank=0)
    journal.append(events.EVALUATION, {"top_1_accuracy": 0.6}, rank=0)
    journal.close()
    assert [result["top_1_accuracy"] for result in results_of(run)] == [0.5, 0.6], "neither names a checkpoint"


figures = st.one_of(st.none(), st.integers(0, 3).map(lambda n: n / 4))
results = st.lists(
    st.fixed_dictionaries(
        {
            "top_1_accuracy": figures,
            "top_5_accuracy": figures,
            "loss": figures,
            "epoch": st.integers(1, 3),
            "step": st.integers(1, 2),
        }
    ),
    max_size=6,
)


@given(results)
def test_no_other_result_is_better_than_the_best(told: "list[dict[str, Any]]") -> None:
    best = best_of(told)
    known = [one for one in told if one["top_1_accuracy"] is not None]
    assert (best is None) == (not known)
    for one in known:
        assert best is not None and one["top_1_accuracy"] <= best["top_1_accuracy"]
        if one["top_1_accuracy"] == best["top_1_accuracy"]:
            first, second = ((-1 if o["top_5_accuracy"] is None else o["top_5_accuracy"]) for o in (one, best))
            assert first <= second
            if first == second:
                first, second = ((99 if o["loss"] is None else o["loss"]) for o in (one, best))
                assert first >= second
                assert first > second or (one["epoch"], one["step"]) <= (best["epoch"], best["step"])


@pytest.mark.parametrize("odd", [{"top_1_accuracy": "0.99"}, {"top_1_accuracy": True}, {}])
def test_a_figure_that_is_no_number_does_not_make_a_best(odd: "dict[str, Any]") -> None:
    assert best_of([odd]) is None
    assert best_of([odd, {"top_1_accuracy": 0.1}, odd]) == {"top_1_accuracy": 0.1}


def test_only_results_on_the_dataset_of_the_newest_are_compared(run: Run, evaluated: Tell) -> None:
    evaluated("1", 1.0, scored("/a.ckpt", 0.9), dataset="/easy")
    evaluated("2", 2.0, scored("/b.ckpt", 0.4), scored("/c.ckpt", 0.3), dataset="/hard")
    best = best_of(results_of(run))
    assert best is not None and best["checkpoint"] == "/b.ckpt"


def test_the_mark_names_the_checkpoint_beside_it_and_in_the_run_and_leaves_no_older_one(
    run: Run, evaluated: Tell, tmp_path: Path
) -> None:
    evaluated("1", 1.0)
    first, second = tmp_path / "first" / "a-1_5.ckpt", tmp_path / "second" / "a-2_5.ckpt"
    for path in (first, second):
        path.parent.mkdir()
        path.touch()
        assert mark_best(run, scored(str(path), 0.5, sha256="ab", epoch=1)) == []
    mark = json.loads((second.parent / "best.json").read_bytes())
    assert (mark["checkpoint"], mark["path"], mark["sha256"]) == ("a-2_5.ckpt", str(second), "ab")
    assert (mark["top_1_accuracy"], mark["top_5_accuracy"]) == (0.5, None)
    assert json.loads((run.run_dir.evals / "best.json").read_bytes()) == mark
    assert not (first.parent / "best.json").exists(), "two marks would be one too many"


def test_a_folder_that_takes_no_mark_is_named_and_the_run_keeps_it(run: Run, evaluated: Tell, tmp_path: Path) -> None:
    evaluated("1", 1.0)
    (tmp_path / "best.json").mkdir()
    [(path, reason)] = mark_best(run, scored(str(tmp_path / "a.ckpt"), 0.5))
    assert (path, reason) == (tmp_path / "best.json", "Is a directory")
    assert json.loads((run.run_dir.evals / "best.json").read_bytes())["checkpoint"] == "a.ckpt"


def test_checkpoints_that_the_run_has_removed_cannot_be_marked(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").touch()
    told = [scored(str(tmp_path / "a.ckpt"), 0.1), scored(str(tmp_path / "b.ckpt"), 0.9), {"top_1_accuracy": 0.5}]
    assert still_there(told) == told[:1]


def test_details_come_from_the_file_of_that_very_evaluation(tmp_path: Path) -> None:
    kept = tmp_path / "a.eval.json"
    result = scored("a.ckpt", 0.5, sha256="ab", json=str(kept))
    assert with_details(result) == result, "no file"
    kept.write_text(json.dumps({"sha256": "ab", "confusion": [[1]], "per_class": [], "top_1_accuracy": 0.7}))
    assert with_details(result) == {**result, "confusion": [[1]], "per_class": []}
    kept.write_text(json.dumps({"sha256": "other", "confusion": [[1]]}))
    assert with_details(result) == result
    kept.write_text("[" * 100_000)
    assert with_details(result) == result
