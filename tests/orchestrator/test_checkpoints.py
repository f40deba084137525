"""Which checkpoint a run goes on from, and which hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.checkpoints import Checkpoint, copies_of, in_file, newest_first, told
from orchestrator.errors import HostError, SpecError
from orchestrator.farhosts import FarHost
from orchestrator.inventory import HostEntry
from orchestrator.restarts import choose
from orchestrator.supervisor.rundir import RunDir


def one(step: int, *, rank: int = 0, attempt: int = 1, epoch: int = 1) -> Checkpoint:
    return Checkpoint(f"/c/{attempt}/{rank}/{epoch}_{step}.ckpt", "a", rank, attempt, epoch, step, 7)


def test_the_newest_comes_first_by_epoch_and_then_by_step() -> None:
    found = newest_first([one(5), one(20), one(3, epoch=2), one(10)])
    assert [parts[0].place for parts in found] == [(2, 3), (1, 20), (1, 10), (1, 5)]


def test_a_step_counts_only_where_every_rank_that_writes_has_it() -> None:
    found = newest_first([one(5), one(5, rank=1), one(10), one(10, rank=1), one(15)])
    assert [(parts[0].step, len(parts)) for parts in found] == [(10, 2), (5, 2)]


def test_a_step_that_a_later_attempt_wrote_again_counts_as_it_wrote_it() -> None:
    (parts,) = newest_first([one(5), one(5, attempt=2)])
    assert parts[0].attempt == 2


@pytest.mark.parametrize(
    "fact",
    [
        {},
        {"path": "relative.ckpt", "rank": 0, "step": 1, "bytes": 1},
        {"path": "/c", "rank": None, "step": 1, "bytes": 1},
        {"path": "/c", "rank": 0, "step": "1", "bytes": 1},
        {"path": "/c", "rank": 0, "step": 1},
        {"path": "/c", "rank": 0, "step": 1, "bytes": -1},
        {"path": "/c", "rank": 0, "step": True, "bytes": True},
    ],
)
def test_a_checkpoint_of_which_too_little_is_told_is_passed_over(fact: "dict[str, object]") -> None:
    assert told([fact]) == []


ENTRIES = [HostEntry(name, name, spare=name > "b") for name in ("a", "b", "x", "y")]


def names(entries: "list[HostEntry]") -> str:
    return "".join(entry.name for entry in entries)


def test_a_spare_takes_the_place_of_the_host_it_replaces() -> None:
    assert names(choose(ENTRIES, ["a", "b"], {"a"}, "replace")) == "xb"
    assert names(choose(ENTRIES, ["x", "b"], {"a", "x"}, "replace")) == "yb"
    assert names(choose(ENTRIES, ["a", "b"], {"a"}, "shrink")) == "b"
    assert names(choose(ENTRIES, ["a", "b"], set(), "wait")) == "ab"


@pytest.mark.parametrize(("lost", "mode"), [({"a", "b", "x"}, "replace"), ({"a", "b"}, "shrink")])
def test_too_few_hosts_are_an_error_that_names_them(lost: "set[str]", mode: str) -> None:
    inventory = ENTRIES[:3]
    with pytest.raises(HostError, match="lost"):
        choose(inventory, ["a", "b"], lost, mode)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/w/r/attempts/1/train_parallel1/ckpt/a.ckpt", "attempts/1/train_parallel1/ckpt/a.ckpt"),
        ("/w/r/attempts/1/train_parallel0/a.ckpt", "hosts/h/attempts/1/checkpoints/a.ckpt"),  # another host's rank
        ("/w/r/attempts/1/train_parallel1/../../../../x/a.ckpt", "hosts/h/attempts/1/checkpoints/a.ckpt"),
        ("/data/a.ckpt", "hosts/h/attempts/1/checkpoints/a.ckpt"),
    ],
)
def test_a_copy_stays_in_the_folders_of_its_own_host(path: str, place: str) -> None:
    host = FarHost(HostEntry("h", "h"), "python3", "/a", "/w/r/attempts/1", "attempts/1", ("train_parallel1",))
    told_of = Checkpoint(path, "h", 1, 1, 1, 5, 7)
    assert copies_of(RunDir(Path("/runs/r")), [told_of], [host]) == {told_of: Path("/runs/r") / place}


def test_a_file_that_is_not_what_its_sidecar_says_is_not_resumed_from(tmp_path: Path) -> None:
    checkpoint = tmp_path / "net-1_5.ckpt"
    checkpoint.write_bytes(b"weights")
    assert in_file(checkpoint) == str(checkpoint)
    checkpoint.with_suffix(".json").write_text('{"bytes": 8}')
    with pytest.raises(SpecError, match="7 bytes"):
        in_file(checkpoint)
    with pytest.raises(SpecError, match="no checkpoint file"):
        in_file(tmp_path / "other.ckpt")
