from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import NameTakenError, RunDirError, RunNotFoundError
from orchestrator.store import Run, Store

MakeRun = Callable[..., Run]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def add(tmp_path: Path, store: Store, make_run: MakeRun) -> Callable[[str], Run]:
    """Return a function that adds a run; each one is newer than those before it."""
    count = 0

    def add_run(name: str) -> Run:
        nonlocal count
        count += 1
        root = tmp_path / "runs" / name
        store.add(name, root)
        os.utime(store.links / name, (count, count), follow_symlinks=False)
        return make_run(root, name)

    return add_run


def test_a_store_without_runs_says_how_to_get_one(store: Store) -> None:
    assert store.recent(5) == []
    with pytest.raises(RunNotFoundError, match="ascendrun launch"):
        store.find(None)


def test_a_run_is_found_by_name_by_path_and_as_the_newest(
    store: Store, add: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old, new = add("old"), add("new")
    assert store.find("old").plan == old.plan
    assert store.find(str(old.run_dir.root)).run_dir.root == old.run_dir.root
    assert store.find(None).plan == new.plan
    monkeypatch.chdir(tmp_path)
    assert store.find("runs/old").plan == old.plan
    assert store.find("runs/old").run_dir.root.is_absolute()


def test_the_recent_runs_come_newest_first_and_no_more_than_asked(store: Store, add: Callable[[str], Run]) -> None:
    for name in ("a", "c", "b"):
        add(name)
    assert [run.plan.name for run in store.recent(9)] == ["b", "c", "a"]
    assert [run.plan.name for run in store.recent(2)] == ["b", "c"]


def test_an_unknown_run_names_the_nearest_one(store: Store, add: Callable[[str], Run]) -> None:
    add("sknet50-1")
    with pytest.raises(RunNotFoundError, match="did you mean 'sknet50-1'"):
        store.find("sknet5-1")


@pytest.mark.parametrize("what", ["/no/such/folder", "/", ".", "..", "", "a/../../etc"])
def test_a_folder_that_is_no_run_says_so(store: Store, add: Callable[[str], Run], what: str) -> None:
    add("a")
    with pytest.raises(RunNotFoundError):
        store.find(what)


def test_a_name_is_given_once_whatever_the_folder(store: Store, add: Callable[[str], Run], tmp_path: Path) -> None:
    run = add("mine")
    with pytest.raises(NameTakenError, match="'mine' exists already") as caught:
        store.add("mine", tmp_path / "elsewhere" / "mine")
    assert str(run.run_dir.root) in str(caught.value)
    assert not (tmp_path / "elsewhere").exists()
    assert store.find("mine").plan == run.plan


def test_a_folder_that_is_there_already_is_left_alone_and_the_name_stays_free(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").touch()
    with pytest.raises(NameTakenError, match="exists already"):
        store.add("mine", tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["precious"]
    store.add("mine", tmp_path / "other")


@pytest.mark.parametrize("folder", ["file/mine", "file/below/mine"])
def test_a_run_folder_that_cannot_be_made_says_why_and_leaves_nothing(
    store: Store, tmp_path: Path, folder: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirError) as caught:
        store.add("mine", tmp_path / folder)
    assert not isinstance(caught.value, NameTakenError), "the name is free: the folder above is a file"
    assert "--run-dir" in str(caught.value)
    assert os.listdir(store.links) == []


def test_an_index_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(RunDirError, match="ASCENDRUN_HOME"):
        Store(tmp_path / "home").add("mine", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_a_full_disk_is_told_before_anything_starts(store: Store, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can make a small disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be made here: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises(RunDirError, match="is full"):
            store.add("mine", disk / "mine")
        assert os.listdir(disk) == []
        assert os.listdir(store.links) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_run_whose_folder_was_removed_is_forgotten_and_its_name_is_free(
    store: Store, add: Callable[[str], Run], tmp_path: Path
) -> None:
    add("kept")
    gone = add("gone")
    shutil.rmtree(gone.run_dir.root)
    assert [run.plan.name for run in store.recent(9)] == ["kept"]
    assert store.find(None).plan.name == "kept"
    with pytest.raises(RunNotFoundError, match="gone"):
        store.find("gone")
    store.add("gone", tmp_path / "again")


def test_a_launch_that_did_not_come_about_is_taken_back(store: Store, tmp_path: Path) -> None:
    store.add("mine", tmp_path / "mine")
    (tmp_path / "mine" / "file").touch()
    store.forget("mine", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    assert os.listdir(store.links) == []
    store.forget("mine", tmp_path / "mine")
    store.add("mine", tmp_path / "mine")


@pytest.mark.parametrize("one_folder", [True, False], ids=["one folder", "a folder each"])
def test_of_many_launches_that_want_a_name_at_once_exactly_one_gets_it(tmp_path: Path, one_folder: bool) -> None:
    threads_each, rounds = 6, 40
    for attempt in range(rounds):
        store = Store(tmp_path / f"home{attempt}")
        barrier = threading.Barrier(threads_each)
        winners: "list[Path]" = []

        def launch(number: int, store: Store = store, barrier: threading.Barrier = barrier) -> None:
            root = tmp_path / f"runs{attempt}" / ("0" if one_folder else str(number)) / "mine"  # noqa: B023
            barrier.wait()
            try:
                store.add("mine", root)
            except NameTakenError:
                return
            winners.append(root)  # noqa: B023

        threads = [threading.Thread(target=launch, args=(number,)) for number in range(threads_each)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        assert Path(os.path.realpath(store.links / "mine")) == winners[0].resolve(), "the winner is in the index"
        assert winners[0].is_dir()


RACE = """
import sys
from pathlib import Path
from orchestrator.errors import NameTakenError
from orchestrator.store import Store

home, root, number = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
for attempt in range(300):
    try:
        Store(home).add(f"mine{attempt}", root / number / str(attempt))
    except NameTakenError:
        continue
    print(attempt, flush=True)
"""


def test_of_many_processes_that_want_a_name_at_once_exactly_one_gets_it(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path / "home"), str(tmp_path / "runs"), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = sorted(int(word) for racer in racers for word in racer.communicate(timeout=60)[0].split())
    assert won == list(range(300))


# ── damage ───────────────────────────────────────────────────────────────────────────────────────


def replaced(stored: "dict[str, Any]", path: "tuple[Any, ...]", value: Any) -> str:
    place: Any = stored
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(stored)


@pytest.mark.parametrize(
    "path",
    [
        ("spec",),
        ("spec", "name"),
        ("spec", "config"),
        ("spec", "environment"),
        ("spec", "dataset"),
        ("spec", "command"),
        ("spec", "backend"),
        ("spec", "grace_s"),
        ("ranks",),
        ("ranks", 0),
        ("ranks", 0, "process"),
        ("ranks", 0, "process", "argv"),
        ("scheduler",),
        ("scheduler_on_demand",),
        ("command_line",),
    ],
    ids=lambda path: ".".join(map(str, path)),
)
def test_a_plan_with_a_damaged_part_is_a_run_or_no_run_and_never_a_crash(
    tmp_path: Path, make_run: MakeRun, path: "tuple[Any, ...]"
) -> None:
    run = make_run(tmp_path / "run")
    for junk in (None, 5, "x", ["x"], {"x": "y"}, [], {}):
        run.run_dir.plan.write_text(replaced(json.loads(run.plan.to_json()), path, junk), encoding="utf-8")
        try:
            Run.read(run.run_dir.root)
        except RunNotFoundError as exc:
            assert "plan.json" in str(exc)


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"{}", b"\xff", b"[" * 100_000], ids=lambda c: c[:5])
def test_a_damaged_plan_is_named_and_does_not_hide_the_other_runs(
    store: Store, add: Callable[[str], Run], content: bytes
) -> None:
    add("good")
    add("bad").run_dir.plan.write_bytes(content)
    with pytest.raises(RunNotFoundError, match=r"bad/plan\.json: damaged"):
        store.find("bad")
    assert [run.plan.name for run in store.recent(9)] == ["good"]


def test_a_run_of_a_newer_ascendrun_does_not_hide_the_other_runs(store: Store, add: Callable[[str], Run]) -> None:
    add("good")
    bad = add("newer")
    bad.run_dir.plan.write_text(
        replaced(json.loads(bad.plan.to_json()), ("spec", "backend"), "quantum"), encoding="utf-8"
    )
    assert "good" in [run.plan.name for run in store.recent(9)]


def test_a_stranger_in_the_index_does_no_harm(store: Store, add: Callable[[str], Run], tmp_path: Path) -> None:
    add("good")
    (store.links / "file").touch()
    (store.links / "folder").mkdir()
    (store.links / "loop").symlink_to("loop")
    (store.links / "elsewhere").symlink_to(tmp_path)
    assert [run.plan.name for run in store.recent(9)] == ["good"]
    with pytest.raises(RunNotFoundError):
        store.find("loop")
