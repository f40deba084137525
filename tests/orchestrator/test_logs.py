from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator import logs
from orchestrator.errors import RunNotFoundError
from orchestrator.jobspec import JobSpec
from orchestrator.logs import Source
from orchestrator.store import Run

MakeRun = Callable[..., Run]
contents = st.lists(st.lists(st.sampled_from(["a", "b", "c", "", " a", "ü"]), max_size=12), min_size=1, max_size=4)


def write(folder: Path, logs_of_ranks: "list[list[str]]") -> "list[Source]":
    found = []
    for rank, lines in enumerate(logs_of_ranks):
        path = folder / f"{rank}.log"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        found.append(Source(f"rank {rank}", rank, path))
    return found


def counted(folded: "list[tuple[list[Source], str]]") -> "Counter[tuple[object, str]]":
    return Counter((source.rank, line) for having, line in folded for source in having)


def wanted(logs_of_ranks: "list[list[str]]") -> "Counter[tuple[object, str]]":
    return Counter((rank, line) for rank, lines in enumerate(logs_of_ranks) for line in lines)


def test_logs_are_read_one_after_the_other_each_line_with_its_rank(tmp_path: Path) -> None:
    chosen = write(tmp_path, [["a", "b"], ["c"]])
    assert [(source.rank, line) for source, line in logs.read(chosen)] == [(0, "a"), (0, "b"), (1, "c")]


def test_a_log_that_is_not_there_yet_has_no_lines(tmp_path: Path) -> None:
    source = Source("rank 0", 0, tmp_path / "gone")
    assert list(logs.read([source])) == list(logs.read([source], 3)) == list(logs.fold([source])) == []


@given(contents)
def test_every_line_of_every_log_is_read_exactly_once(lines: "list[list[str]]") -> None:
    with tempfile.TemporaryDirectory() as folder:
        read = list(logs.read(write(Path(folder), lines)))
    assert [(source.rank, line) for source, line in read] == [
        (rank, line) for rank, log in enumerate(lines) for line in log
    ]


@given(st.binary(max_size=30), st.integers(1, 5))
@example(b" 10%\r 50%\r100%\n", 1)
@example(b"a\x0cb\n", 1)
@example("a\u2028b\n".encode(), 1)
@example(b"a\r\nb\r\n", 2)
def test_the_tail_of_a_log_is_the_end_of_the_whole_log(content: bytes, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "log").write_bytes(content)
        source = Source("rank 0", 0, Path(folder) / "log")
        assert list(logs.read([source], count)) == list(logs.read([source]))[-count:]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b" 10%\r 50%\r100%\ndone\n", ["100%", "done"]),
        (b"windows\r\nlines\r\n", ["windows", "lines"]),
        (b"no end", ["no end"]),
        (b"\n\n", ["", ""]),
        (b"\xff\n", ["\ufffd"]),
    ],
)
def test_a_line_is_shown_as_a_terminal_would_show_it(tmp_path: Path, content: bytes, lines: "list[str]") -> None:
    (tmp_path / "log").write_bytes(content)
    assert [line for _, line in logs.read([Source("rank 0", 0, tmp_path / "log")])] == lines


def test_a_line_that_all_ranks_print_comes_once_with_all_of_them(tmp_path: Path) -> None:
    chosen = write(tmp_path, [["start", "loss 1", "end"], ["start", "loss 2", "end"]])
    assert [([source.rank for source in having], line) for having, line in logs.fold(chosen)] == [
        ([0, 1], "start"),
        ([0], "loss 1"),
        ([1], "loss 2"),
        ([0, 1], "end"),
    ]


@given(contents)
def test_folding_gives_every_line_of_every_log_exactly_once_to_the_right_ranks(lines: "list[list[str]]") -> None:
    with tempfile.TemporaryDirectory() as folder:
        folded = list(logs.fold(write(Path(folder), lines)))
    assert counted(folded) == wanted(lines)
    assert all(len({source.rank for source in having}) == len(having) for having, _ in folded)
    for rank, log in enumerate(lines):
        remaining = iter(log)
        alone = [line for having, line in folded if [source.rank for source in having] == [rank]]
        assert all(line in remaining for line in alone), "lines of one log alone keep their order"


@given(st.lists(st.sampled_from("ab"), max_size=10), st.integers(1, 3))
def test_equal_logs_fold_to_one_log_in_its_order(lines: "list[str]", ranks: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        folded = list(logs.fold(write(Path(folder), [lines] * ranks)))
    assert [line for _, line in folded] == lines
    assert all([source.rank for source in having] == list(range(ranks)) for having, _ in folded)


def test_folding_logs_longer_than_the_window_still_gives_every_line_once(tmp_path: Path) -> None:
    beat, steps = ["waiting"] * 9_000, [f"step {n}" for n in range(9_000)]
    lines = [beat + steps, steps + beat, [line for pair in zip(beat, steps) for line in pair]]
    folded = list(logs.fold(write(tmp_path, lines)))
    assert counted(folded) == wanted(lines)
    doubled = [line for having, line in folded if len({source.rank for source in having}) < len(having)]
    assert not doubled, f"{len(doubled)} lines name a rank twice, such as {doubled[0]!r}"


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abc")), max_size=20))
def test_a_folded_batch_holds_every_line_exactly_once_and_keeps_the_order_of_each_log(
    batch: "list[tuple[int, str]]",
) -> None:
    chosen = [Source(f"rank {rank}", rank, Path("x")) for rank in range(3)]
    folded = logs.fold_batch([(chosen[rank], line) for rank, line in batch])
    assert counted(folded) == Counter(batch)
    assert all(len({source.rank for source in having}) == len(having) for having, _ in folded)
    for number in range(3):
        remaining = iter([line for rank, line in batch if rank == number])
        alone = [line for having, line in folded if [source.rank for source in having] == [number]]
        assert all(line in remaining for line in alone), "lines of one log alone keep their order"


# ── whose logs ───────────────────────────────────────────────────────────────────────────────────


def test_the_logs_of_all_ranks_or_of_those_asked_for_are_found(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run", ranks=3)
    assert [source.rank for source in logs.sources(run)] == [0, 1, 2]
    assert [source.label for source in logs.sources(run, [2, 0])] == ["rank 2", "rank 0"]
    assert logs.sources(run, [1])[0].path == tmp_path / "run" / "train_parallel1" / "train.log"


def test_the_log_of_the_scheduler_comes_last_if_asked_for(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run")
    assert [source.label for source in logs.sources(run, scheduler=True)] == ["rank 0", "rank 1", "scheduler"]
    alone = make_run(tmp_path / "alone", "alone", ranks=1, spec=JobSpec("a", module="m", framework="mindspore"))
    with pytest.raises(RunNotFoundError, match="no scheduler"):
        logs.sources(alone, scheduler=True)


@pytest.mark.parametrize("rank", [2, 99, -1])
def test_a_rank_that_the_run_does_not_have_says_which_it_has(tmp_path: Path, make_run: MakeRun, rank: int) -> None:
    with pytest.raises(RunNotFoundError, match=r"it has 2 \(0-1\)"):
        logs.sources(make_run(tmp_path / "run"), [rank])


def test_following_a_finished_run_gives_every_line_the_half_one_too_and_ends(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "run" / "train_parallel0" / "train.log").write_text("a\nb\nhalf", encoding="utf-8")
    (tmp_path / "run" / "train_parallel1" / "train.log").write_text("c\n", encoding="utf-8")
    chosen = logs.sources(run)
    found = [(source.rank, line) for batch in logs.follow(run, chosen) for source, line in batch]
    assert Counter(found) == Counter([(0, "a"), (0, "b"), (0, "half"), (1, "c")])
    found = [(source.rank, line) for batch in logs.follow(run, chosen, 1) for source, line in batch]
    assert Counter(found) == Counter([(0, "b"), (0, "half"), (1, "c")])
