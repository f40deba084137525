from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.collect import MANIFEST, SUMS, CollectedFile, collect
from orchestrator.errors import RunDirError
from orchestrator.store import Run
from orchestrator.supervisor import events
from orchestrator.supervisor.journal import Journal

MakeRun = Callable[..., Run]


@pytest.fixture
def run(tmp_path: Path, make_run: MakeRun) -> Run:
    """A finished run of two ranks with logs, a checkpoint and an evaluation result."""
    run = make_run(tmp_path / "run")
    journal = Journal(run.run_dir.journal, "node1")
    journal.append(events.EVALUATION, {"top_1_accuracy": 0.94}, rank=0)
    journal.close()
    for rank in (0, 1):
        (run.run_dir.root / f"train_parallel{rank}" / "train.log").write_text(f"rank {rank}\n" * 1000, encoding="utf-8")
    folder = run.run_dir.root / "train_parallel0" / "ckpt" / "deep"
    folder.mkdir(parents=True)
    (folder / "net-1_195.ckpt").write_bytes(bytes(range(256)) * 10_000)
    (folder / "net-1_195.ckpt").chmod(0o400)  # as MindSpore leaves it
    (folder / "net-2_195.ckpt.tmp").write_bytes(b"half")
    return run


def gather(run: Run, destination: Path) -> "dict[str, CollectedFile]":
    told: "list[CollectedFile]" = []
    found = collect(run, destination, told.append)
    assert told == found
    return {file.path: file for file in found}


def manifest(destination: Path) -> "dict[str, object]":
    content: "dict[str, object]" = json.loads((destination / MANIFEST).read_bytes())
    return content


def check_sums(destination: Path) -> None:
    """Let sha256sum itself judge."""
    done = subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=destination, capture_output=True)
    assert done.returncode == 0, (done.stdout + done.stderr).decode("utf-8", "replace")


def test_everything_that_matters_is_copied_and_nothing_that_does_not(run: Run, tmp_path: Path) -> None:
    (run.run_dir.root / "supervisor.lock").touch()
    (run.run_dir.root / "supervisor.pid").touch()
    (run.run_dir.root / ".plan.json.77").touch()
    (run.run_dir.root / "outside").symlink_to("/etc/passwd")
    (run.run_dir.root / "train_parallel1" / "folder").symlink_to("/etc")
    os.mkfifo(run.run_dir.root / "pipe")
    destination = tmp_path / "a" / "b"
    files = gather(run, destination)
    assert {path: file.kind for path, file in files.items()} == {
        "plan.json": "record",
        "journal.jsonl": "metrics",
        "train_parallel0/train.log": "log",
        "train_parallel0/ckpt/deep/net-1_195.ckpt": "checkpoint",
        "train_parallel1/train.log": "log",
    }
    on_disk = {str(path.relative_to(destination)) for path in destination.rglob("*") if path.is_file()}
    assert on_disk == {*files, MANIFEST, SUMS}
    for path in files:
        assert (destination / path).read_bytes() == (run.run_dir.root / path).read_bytes()


def test_the_manifest_tells_of_the_run_and_agrees_with_every_file(run: Run, tmp_path: Path) -> None:
    files = gather(run, tmp_path / "out")
    told = manifest(tmp_path / "out")
    assert (told["run"], told["run_id"], told["outcome"], told["finished"]) == (
        "run-1",
        "run-1-abcd",
        "succeeded",
        True,
    )
    assert (told["ranks"], told["hosts"], told["backend"]) == (2, ["node1"], "cpu")
    assert told["evaluations"] == [{"top_1_accuracy": 0.94, "rank": 0, "dataset": None}]
    assert told["files"] == [
        {"path": file.path, "kind": file.kind, "size": file.size, "sha256": file.sha256} for file in files.values()
    ]
    for file in files.values():
        content = (tmp_path / "out" / file.path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size, file.sha256)
    check_sums(tmp_path / "out")


def test_a_copy_can_be_replaced_although_its_source_is_read_only_and_keeps_its_time(run: Run, tmp_path: Path) -> None:
    source = run.run_dir.root / "train_parallel0" / "ckpt" / "deep" / "net-1_195.ckpt"
    gather(run, tmp_path / "out")
    copy = tmp_path / "out" / source.relative_to(run.run_dir.root)
    assert stat.S_IMODE(copy.stat().st_mode) & 0o200
    assert copy.stat().st_mtime_ns == source.stat().st_mtime_ns


def test_a_second_time_only_what_has_changed_is_copied(run: Run, tmp_path: Path) -> None:
    assert all(file.copied for file in gather(run, tmp_path / "out").values())
    before = manifest(tmp_path / "out")
    assert not any(file.copied for file in gather(run, tmp_path / "out").values())
    after = manifest(tmp_path / "out")
    assert {**before, "collected_at": 0} == {**after, "collected_at": 0}
    log = run.run_dir.root / "train_parallel1" / "train.log"
    log.write_text(log.read_text(encoding="utf-8").replace("1", "2"), encoding="utf-8")  # the same size
    (tmp_path / "out" / "train_parallel0" / "train.log").write_text("damaged", encoding="utf-8")
    copied = [path for path, file in gather(run, tmp_path / "out").items() if file.copied]
    assert copied == ["train_parallel0/train.log", "train_parallel1/train.log"]
    check_sums(tmp_path / "out")


def test_a_file_that_the_run_has_removed_stays_in_neither_list(run: Run, tmp_path: Path) -> None:
    gather(run, tmp_path / "out")
    shutil.rmtree(run.run_dir.root / "train_parallel0" / "ckpt")
    files = gather(run, tmp_path / "out")
    assert not any(path.endswith(".ckpt") for path in files)
    assert [file["path"] for file in manifest(tmp_path / "out")["files"]] == list(files)  # type: ignore[attr-defined,index]
    check_sums(tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["with blank.ckpt", " leading", "grün.log", "*", "#1", "-x", "back\\slash", "new\nline"]
)
def test_sums_of_files_with_odd_names_can_be_checked_too(run: Run, tmp_path: Path, name: str) -> None:
    (run.run_dir.root / "train_parallel0" / name).write_bytes(b"content")
    assert f"train_parallel0/{name}" in gather(run, tmp_path / "out")
    check_sums(tmp_path / "out")


def test_a_file_whose_name_is_no_text_is_no_obstacle(run: Run, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.ckpt")
    (run.run_dir.root / "train_parallel0" / name).write_bytes(b"content")
    gather(run, tmp_path / "out")
    assert (tmp_path / "out" / "train_parallel0" / name).read_bytes() == b"content"
    check_sums(tmp_path / "out")


@pytest.mark.parametrize("below", [".", "collected", "train_parallel0/ckpt"])
def test_a_run_is_not_collected_into_itself(run: Run, below: str) -> None:
    before = sorted(run.run_dir.root.rglob("*"))
    with pytest.raises(RunDirError, match="own folder"):
        gather(run, run.run_dir.root / below)
    assert sorted(run.run_dir.root.rglob("*")) == before


def test_a_run_is_not_collected_into_itself_by_another_way(run: Run, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run.run_dir.root)
    for destination in (tmp_path / "link" / "out", run.run_dir.root / ".." / run.run_dir.root.name / "out"):
        with pytest.raises(RunDirError, match="own folder"):
            gather(run, destination)


def test_a_folder_that_holds_another_run_is_left_as_it_is(run: Run, tmp_path: Path, make_run: MakeRun) -> None:
    gather(make_run(tmp_path / "other", "other"), tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with pytest.raises(RunDirError, match="holds the run other-abcd"):
        gather(run, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize("content", [b"", b"junk", b"[]", b"null", b"\xff"])
def test_a_folder_with_a_manifest_that_is_not_ours_is_left_as_it_is(run: Run, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST).write_bytes(content)
    with pytest.raises(RunDirError, match="choose another -o DIR"):
        gather(run, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == [MANIFEST]


def test_a_file_is_no_place_to_collect_into(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for destination in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunDirError):
            gather(run, destination)


def test_a_folder_in_the_way_of_a_file_is_told_and_leaves_no_temporary_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out" / "journal.jsonl" / "x").mkdir(parents=True)
    with pytest.raises(RunDirError, match="cannot collect into"):
        gather(run, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob(".*")]


def test_a_log_that_grows_meanwhile_is_collected_as_it_was_at_one_moment(run: Run, tmp_path: Path) -> None:
    log = run.run_dir.root / "train_parallel0" / "train.log"
    enough, growing = threading.Event(), threading.Event()

    def grow() -> None:
        with log.open("ab", buffering=0) as file:
            while not enough.is_set():
                file.write(b"one more line\n" * 500)
                growing.set()
                if file.tell() > 10 << 20:
                    return

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        growing.wait()
        for number in range(3):
            destination = tmp_path / f"out{number}"
            collected = gather(run, destination)["train_parallel0/train.log"]
            content = (destination / collected.path).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (collected.size, collected.sha256)
            assert log.read_bytes().startswith(content)
            check_sums(destination)
    finally:
        enough.set()
        writer.join()
