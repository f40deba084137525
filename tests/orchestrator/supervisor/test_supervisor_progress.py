"""Tests of supervisor/progress.py (named so because sknet has a progress.py too)."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.supervisor import progress as module
from orchestrator.supervisor.progress import MINDSPORE_PATTERNS, LineTail, RankProgress, last_lines

PATTERNS = [pattern.encode() for pattern in MINDSPORE_PATTERNS]


def of_log(tmp_path: Path, *lines: str, patterns: "list[bytes]" = PATTERNS) -> "dict[str, Any]":
    """Return the step that a log of these lines tells of."""
    (tmp_path / "train.log").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    rank = RankProgress(tmp_path / "progress.jsonl", tmp_path / "train.log", patterns)
    rank.read()
    return rank.step


def tell(tmp_path: Path, *lines: "bytes | dict[str, Any]") -> None:
    with (tmp_path / "progress.jsonl").open("ab") as file:
        for line in lines:
            file.write((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n")


@pytest.fixture
def rank(tmp_path: Path) -> RankProgress:
    return RankProgress(tmp_path / "progress.jsonl", tmp_path / "train.log", PATTERNS)


# ── the contract ─────────────────────────────────────────────────────────────────────────────────


def test_a_rank_that_has_told_nothing_has_no_step_and_no_facts(rank: RankProgress) -> None:
    assert rank.read() == (False, [])
    assert rank.step == {}


def test_the_newest_step_is_kept_and_other_facts_come_out_once_in_order(tmp_path: Path, rank: RankProgress) -> None:
    tell(
        tmp_path,
        {"kind": "phase", "phase": "train"},
        {"kind": "step", "epoch": 1, "step": 1, "loss": 2.5},
        {"kind": "checkpoint", "path": "a.ckpt", "epoch": 1},
        {"kind": "step", "epoch": 1, "step": 2, "loss": 2.25, "x": "unknown"},
        {"kind": "invented", "y": 1},
    )
    changed, facts = rank.read()
    assert changed
    assert rank.step == {"epoch": 1, "step": 2, "loss": 2.25, "x": "unknown"}
    assert facts == [
        {"kind": "phase", "phase": "train"},
        {"kind": "checkpoint", "path": "a.ckpt", "epoch": 1},
        {"kind": "invented", "y": 1},
    ]
    assert rank.read() == (False, [])


def test_a_line_counts_when_it_is_whole(tmp_path: Path, rank: RankProgress) -> None:
    (tmp_path / "progress.jsonl").write_bytes(b'{"kind": "step", "st')
    assert rank.read() == (False, [])
    tell(tmp_path, b'ep": 7}')
    assert rank.read() == (True, [])
    assert rank.step == {"step": 7}


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"junk",
        b"{}",
        b"[]",
        b"5",
        b"null",
        b'"kind"',
        b'{"kind": 5}',
        b'{"kind": null}',
        b'{"step": 3}',
        b"\xff\xfe\x00",
        b'{"kind": "step"',
        b"[" * 60_000,
        b'{"kind":' * 10_000,
        b"9" * 60_000,
        b"x" * 3_000_000,
        b'{"kind": "step", "x": "' + b"y" * 100_000 + b'"}',
    ],
    ids=lambda junk: f"{junk[:12]!r}*{len(junk)}",
)
def test_junk_among_the_lines_does_no_harm(tmp_path: Path, rank: RankProgress, junk: bytes) -> None:
    tell(tmp_path, junk, {"kind": "step", "step": 1}, junk, {"kind": "phase", "phase": "x"}, junk)
    facts = []
    for _ in range(12):  # a few megabytes are read over several ticks
        facts += rank.read()[1]
    assert rank.step == {"step": 1}
    assert facts == [{"kind": "phase", "phase": "x"}]


@given(st.binary(max_size=60))
@example(b'{"kind":"step","step":1e999}')
@example(b'{"kind":"\\ud800"}')
def test_any_bytes_at_all_are_facts_or_nothing(line: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tell(Path(folder), line)
        rank = RankProgress(Path(folder) / "progress.jsonl", Path(folder) / "train.log", PATTERNS)
        _, facts = rank.read()
        assert all(isinstance(fact["kind"], str) for fact in facts)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_loss_that_is_no_number_is_none_so_that_what_we_write_stays_json(
    tmp_path: Path, rank: RankProgress, number: str
) -> None:
    tell(tmp_path, f'{{"kind": "step", "step": 3, "loss": {number}}}'.encode())
    rank.read()
    json.dumps(rank.step, allow_nan=False)
    assert rank.step == {"step": 3, "loss": None}


def test_of_a_flood_of_facts_none_is_lost_and_the_newest_step_is_found(tmp_path: Path, rank: RankProgress) -> None:
    tell(tmp_path, *[{"kind": "note", "n": n} for n in range(2000)], {"kind": "step", "step": 9})
    _, facts = rank.read()
    assert [fact["n"] for fact in facts] == list(range(2000))
    assert rank.step == {"step": 9}


# ── logs ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("epoch: 1 step: 1875, loss is 0.1234567", {"epoch": 1, "step": 1875, "loss": 0.1234567}),
        ("epoch: 90 step: 195, loss is 1.1160697e-05", {"epoch": 90, "step": 195, "loss": 1.1160697e-05}),
        ("epoch:1 step:5, loss is 0.5", {"epoch": 1, "step": 5, "loss": 0.5}),
        ("epoch: 1 step 5, loss is 0.5", {"epoch": 1, "step": 5, "loss": 0.5}),
        ("epoch: 1, step: 5, loss is 0.5", {"epoch": 1, "step": 5, "loss": 0.5}),
        ("epoch: 1 step: 5 global_step: 205, loss is 0.5", {"epoch": 1, "step": 5, "loss": 0.5}),
        ("epoch: 1 step: 5, loss is -0.5", {"epoch": 1, "step": 5, "loss": -0.5}),
        ("epoch: 1 step: 5, loss is [0.5]", {"epoch": 1, "step": 5, "loss": 0.5}),
        ("epoch: 1 step: 5, loss is 3", {"epoch": 1, "step": 5, "loss": 3.0}),
        ("epoch: 1 step: 5, loss is nan", {"epoch": 1, "step": 5, "loss": None}),
        ("epoch: 1 step: 5, loss is inf", {"epoch": 1, "step": 5, "loss": None}),
        ("[rank 3] 12:00:01 epoch: 1 step: 5, loss is 0.5", {"epoch": 1, "step": 5, "loss": 0.5}),
        ("epoch time: 5673.114 ms, per step time: 3.026 ms", {"step_s": 0.003026}),
        ("Train epoch time: 5673.114 ms, per step time: 3.026 ms", {"step_s": 0.003026}),
        ("Train epoch time: 5673.114 ms, per step time: 3.026 ms (data time: 0.412 ms)", {"step_s": 0.003026}),
        ("Epoch time: 123.4, per step time: 5.5", {"step_s": 0.0055}),
        ("epoch time: 123.4 ms, per step time: 5.5 ms, avg loss: 1.5", {"step_s": 0.0055}),
        ("loss is 0.5", {}),
        ("Epoch 00012: early stopping", {}),
        ("result: {'top_5_accuracy': 0.93, 'top_1_accuracy': 0.75}", {}),
        ("epoch: 1 step: 5, rpn_loss: 0.5, rcnn_loss: 0.5", {}),
        ("epoch: 1 step: 5, loss is unknown", {}),
    ],
)
def test_the_lines_of_mindspore_are_understood(tmp_path: Path, line: str, step: "dict[str, Any]") -> None:
    found = of_log(tmp_path, line)
    assert found == {key: pytest.approx(value) if value is not None else None for key, value in step.items()}
    assert all(isinstance(found[key], int) for key in ("epoch", "step") if key in found)


@pytest.mark.parametrize("text", ["-inf", "-nan"])
def test_a_loss_that_has_run_away_downwards_is_no_number_either(tmp_path: Path, text: str) -> None:
    found = of_log(tmp_path, "epoch: 1 step: 4, loss is 0.5", f"epoch: 1 step: 5, loss is {text}")
    assert found == {"epoch": 1, "step": 5, "loss": None}


def test_lines_of_two_kinds_add_up_to_one_step(tmp_path: Path) -> None:
    found = of_log(
        tmp_path,
        "epoch: 1 step: 195, loss is 0.5",
        "Train epoch time: 5000.0 ms, per step time: 25.0 ms",
        "epoch: 2 step: 195, loss is 0.25",
        "something else",
    )
    assert found == {"epoch": 2, "step": 195, "loss": 0.25, "step_s": 0.025}


def test_patterns_of_the_job_name_the_fields(tmp_path: Path) -> None:
    pattern = rb"\[(?P<epoch>\d+)/(?P<epochs>\d+)\](?: acc=(?P<accuracy>\S+))?"
    assert of_log(tmp_path, "[3/90] acc=0.5", patterns=[pattern]) == {"epoch": 3, "epochs": 90, "accuracy": 0.5}
    assert of_log(tmp_path, "[3/90] acc=high", patterns=[pattern]) == {"epoch": 3, "epochs": 90}
    assert of_log(tmp_path, "[3/90]", patterns=[pattern]) == {"epoch": 3, "epochs": 90}


def test_a_whole_number_too_great_for_a_float_does_no_harm(tmp_path: Path) -> None:
    assert of_log(tmp_path, f"epoch: {'9' * 400} step: 5, loss is 0.5").get("step") == 5


def test_without_patterns_the_log_is_not_read(tmp_path: Path) -> None:
    assert of_log(tmp_path, "epoch: 1 step: 5, loss is 0.5", patterns=[]) == {}


def test_a_program_that_tells_its_progress_is_not_read_by_its_log(tmp_path: Path, rank: RankProgress) -> None:
    tell(tmp_path, {"kind": "step", "step": 7})
    (tmp_path / "train.log").write_text("epoch: 1 step: 5, loss is 0.5\n", encoding="utf-8")
    rank.read()
    assert rank.step == {"step": 7}


# ── tails of files ───────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.binary(max_size=8), max_size=8), st.lists(st.integers(0, 60), max_size=6))
def test_a_tail_gives_each_whole_line_once_however_the_file_grows(parts: "list[bytes]", cuts: "list[int]") -> None:
    content = b"\n".join(parts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        tail, found = LineTail(path), []
        for size in [*sorted(cuts), len(content)]:
            path.write_bytes(content[:size])
            found += tail.lines()
        assert [*found, tail.rest()] == content.split(b"\n")


def test_a_file_that_is_not_there_has_no_lines_until_it_is(tmp_path: Path) -> None:
    tail = LineTail(tmp_path / "log")
    assert tail.lines() == [] and tail.rest() == b"" and tail.skip_to_last(3) == []
    (tmp_path / "log").write_bytes(b"a\n")
    assert tail.lines() == [b"a"]


def test_a_file_that_was_cut_short_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\nthr")
    tail = LineTail(path)
    assert tail.lines() == [b"one", b"two"]
    path.write_bytes(b"new\n")
    assert tail.lines() == [b"new"]


def test_a_large_file_is_read_in_portions_without_losing_a_line(tmp_path: Path) -> None:
    lines = [b"%07d " % n + b"x" * 90 for n in range(25_000)]
    (tmp_path / "log").write_bytes(b"\n".join(lines) + b"\n")
    tail, found = LineTail(tmp_path / "log"), []
    portions = 0
    while portion := tail.lines():
        found += portion
        portions += 1
    assert found == lines
    assert portions > 1


def test_a_line_without_end_does_not_fill_the_memory_and_the_next_line_is_found(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * (5 << 20) + b"\nnext\n")
    tail, found = LineTail(tmp_path / "log"), []
    for _ in range(8):
        found += tail.lines()
        assert len(tail.rest()) <= module._MAX_LINE
    assert found[-1] == b"next" and len(found) == 2


@given(
    st.lists(st.binary(max_size=5).map(lambda b: b.replace(b"\n", b"")), max_size=9),
    st.integers(1, 10),
    st.binary(max_size=4).map(lambda b: b.replace(b"\n", b"")),
)
def test_a_tail_can_skip_to_the_last_lines_and_go_on_from_there(lines: "list[bytes]", count: int, half: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        path.write_bytes(b"".join(line + b"\n" for line in lines) + half)
        tail = LineTail(path)
        assert tail.skip_to_last(count) == lines[-count:]
        with path.open("ab") as file:
            file.write(b"more\n")
        assert tail.lines() == [half + b"more"]


def test_skipping_in_a_file_larger_than_a_block_gives_whole_lines_only(tmp_path: Path) -> None:
    lines = [b"%06d" % n for n in range(300_000)]
    (tmp_path / "log").write_bytes(b"\n".join(lines) + b"\n")
    tail = LineTail(tmp_path / "log")
    found = tail.skip_to_last(10**9)
    assert set(found) <= set(lines)
    assert found[-1] == lines[-1]
    assert tail.lines() == []


@pytest.mark.parametrize("count", [1, 3, 20])
def test_the_last_lines_of_a_log_are_its_last_lines(tmp_path: Path, count: int) -> None:
    lines = [f"line {n}" for n in range(10)]
    (tmp_path / "log").write_text("\n".join(lines), encoding="utf-8")
    assert last_lines(tmp_path / "log", count) == lines[-count:]


def test_the_last_lines_of_a_log_larger_than_the_window_are_whole(tmp_path: Path) -> None:
    lines = [f"line {n:06}" for n in range(5_000)]
    (tmp_path / "log").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = last_lines(tmp_path / "log", 10_000, 8192)
    assert found == lines[-len(found) :]
    assert 8192 // 12 - 1 <= len(found) <= 8192 // 12


def test_the_end_of_one_endless_line_is_better_than_nothing(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x" * 20_000 + "END", encoding="utf-8")
    (line,) = last_lines(tmp_path / "log", 3, 100)
    assert line.endswith("END") and len(line) == 100


def test_an_absent_or_empty_log_has_no_last_lines(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert last_lines(tmp_path / "gone") == last_lines(tmp_path / "empty") == []


def test_bytes_that_are_no_text_are_shown_as_such(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\xff\xfe boom\n")
    assert last_lines(tmp_path / "log") == ["\ufffd\ufffd boom"]
