"""Fetching a dataset, with a real server, real archives and real folders."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.datasets import LAYOUTS
from orchestrator.errors import DatasetError, HostError
from orchestrator.fetch import Fetched, FetchRequest, fetch
from tests.archives import FOLDER, Server, contents, pack, records, serving, sha256

LAYOUT = LAYOUTS["cifar10-binary"]
ARCHIVE = pack(contents())
SUM = sha256(ARCHIVE)


@pytest.fixture
def server() -> "Iterator[Server]":
    with serving(ARCHIVE) as server:
        yield server


def run(folder: Path, request: FetchRequest, said: "list[str] | None" = None) -> Fetched:
    return fetch(LAYOUT, folder, request, lambda told: None, (said if said is not None else []).append)


def files_in(folder: Path) -> "dict[str, bytes]":
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_whole(folder: Path) -> bool:
    found = files_in(folder)
    sums = found.pop("SHA256SUMS", b"").decode()
    assert LAYOUT.source is not None
    wanted = {member.path: contents()[name] for name, member in LAYOUT.source.members.items()}
    return found == wanted and all(f"{sha256(content)}  {path}\n" in sums for path, content in wanted.items())


def test_a_dataset_is_fetched_and_nothing_else_stays(server: Server, tmp_path: Path) -> None:
    assert run(tmp_path / "data", FetchRequest(url=server.url, sha256=SUM)).was_there is False
    assert is_whole(tmp_path / "data")
    assert sorted(os.listdir(tmp_path / "data")) == ["SHA256SUMS", FOLDER, "cifar-10-verify-bin"]


def test_a_second_fetch_asks_nobody_and_changes_nothing(server: Server, tmp_path: Path) -> None:
    request = FetchRequest(url=server.url, sha256=SUM.upper())
    run(tmp_path, request)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert run(tmp_path, request).was_there is True
    assert len(server.seen) == 1
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "a folder"])
def test_a_file_that_was_damaged_since_is_fetched_again(server: Server, tmp_path: Path, damage: str) -> None:
    request = FetchRequest(url=server.url, sha256=SUM)
    run(tmp_path, request)
    file = tmp_path / FOLDER / "data_batch_2.bin"
    content = file.read_bytes()
    file.unlink()
    if damage == "a folder":
        file.mkdir()
        with pytest.raises(DatasetError, match=r"cannot write .*data_batch_2\.bin"):
            run(tmp_path, request)
        return
    if damage != "gone":
        file.write_bytes(content[:-1] if damage == "cut" else b"\x09" + content[1:])
    assert run(tmp_path, request).was_there is False
    assert is_whole(tmp_path)


def test_an_archive_that_was_brought_here_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "archive.tar.gz").write_bytes(ARCHIVE)
    run(tmp_path / "data", FetchRequest(archive=tmp_path / "archive.tar.gz", sha256=SUM))
    assert is_whole(tmp_path / "data")
    assert (tmp_path / "archive.tar.gz").read_bytes() == ARCHIVE


def test_an_archive_with_another_sum_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "archive.tar.gz").write_bytes(ARCHIVE)
    with pytest.raises(DatasetError, match=f"its SHA-256 is {SUM}, not c4a38c50"):
        run(tmp_path / "data", FetchRequest(archive=tmp_path / "archive.tar.gz"))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("missing", ["gone.tar.gz", "."])
def test_an_archive_that_is_none_is_named(tmp_path: Path, missing: str) -> None:
    with pytest.raises(DatasetError, match=r"No such file|not a regular file"):
        run(tmp_path / "data", FetchRequest(archive=tmp_path / missing, sha256=SUM))


def test_a_download_with_a_wrong_sum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="nothing of it was unpacked"):
        run(tmp_path / "data", FetchRequest(url=server.url, sha256="0" * 64))
    assert len(server.seen) == 1
    assert not os.listdir(tmp_path)


def test_a_beginning_that_was_damaged_is_thrown_away_and_fetched_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".fetch").mkdir()
    (tmp_path / ".fetch" / f"{SUM[:16]}.part").write_bytes(b"x" * 1000)
    said: "list[str]" = []
    run(tmp_path, FetchRequest(url=server.url, sha256=SUM), said)
    assert is_whole(tmp_path)
    assert [request["Range"] for request in server.seen] == ["bytes=1000-", None]
    assert any("beginning anew" in line for line in said)


def test_the_published_archive_is_not_mistaken_for_another(server: Server, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"the file has 170,052,171"):
        run(tmp_path, FetchRequest(url=server.url))


@pytest.mark.parametrize("sha256", ["", "abc", "g" * 64, "0" * 65])
def test_a_sum_that_is_none_is_refused(tmp_path: Path, sha256: str) -> None:
    with pytest.raises(DatasetError, match="64 hexadecimal digits"):
        run(tmp_path, FetchRequest(sha256=sha256))


@pytest.mark.parametrize(
    "name", [f"{FOLDER}/data_batch_1.bin", f"{FOLDER}/data_batch_9.bin", "cifar-10-verify-bin/a.bin"]
)
def test_data_of_others_is_left_alone(server: Server, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(records(1))
    with pytest.raises(DatasetError, match="is there already"):
        run(tmp_path, FetchRequest(url=server.url, sha256=SUM))
    assert files_in(tmp_path) == {name: records(1)}
    assert not server.seen


def test_the_files_of_another_archive_are_left_alone(server: Server, tmp_path: Path) -> None:
    run(tmp_path, FetchRequest(url=server.url, sha256=SUM))
    with pytest.raises(DatasetError, match="came from another archive"):
        run(tmp_path, FetchRequest(url=server.url, sha256="0" * 64))
    assert is_whole(tmp_path)


def test_a_hostile_archive_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    hostile = pack({**contents(), "../outside": b"x"})
    (tmp_path / "archive").write_bytes(hostile)
    with pytest.raises(DatasetError, match="would lead out"):
        run(tmp_path / "data", FetchRequest(archive=tmp_path / "archive", sha256=sha256(hostile)))
    assert os.listdir(tmp_path) == ["archive"]


def test_two_at_once_download_once_and_both_find_it_whole(server: Server, tmp_path: Path) -> None:
    server.script = ["stall 1000"]
    request = FetchRequest(url=server.url, sha256=SUM, timeout_s=20.0)
    waiting = threading.Event()
    results: "dict[str, Fetched]" = {}

    def go(name: str) -> None:
        results[name] = fetch(
            LAYOUT, tmp_path, request, lambda told: None, lambda line: waiting.set() if "waiting" in line else None
        )

    first = threading.Thread(target=go, args=("first",))
    first.start()
    assert server.stalled.wait(10)
    second = threading.Thread(target=go, args=("second",))
    second.start()
    assert waiting.wait(10)
    server.closing.set()
    for thread in (first, second):
        thread.join(30)
    assert [results[name].was_there for name in ("first", "second")] == [False, True]
    assert [request["Range"] for request in server.seen] == [None, "bytes=1000-"]
    assert is_whole(tmp_path)
    assert not (tmp_path / ".fetch").exists()


def test_what_a_killed_fetch_left_is_no_hindrance(server: Server, tmp_path: Path) -> None:
    left = tmp_path / ".fetch" / "unpacked" / FOLDER
    left.mkdir(parents=True)
    (left / "data_batch_1.bin").write_bytes(b"half")
    (tmp_path / ".fetch" / "lock").touch()
    run(tmp_path, FetchRequest(url=server.url, sha256=SUM))
    assert is_whole(tmp_path)
    assert not (tmp_path / ".fetch").exists()


def test_a_fetch_that_was_killed_between_two_files_is_completed(server: Server, tmp_path: Path) -> None:
    run(tmp_path, FetchRequest(url=server.url, sha256=SUM))
    (tmp_path / "cifar-10-verify-bin/test_batch.bin").unlink()
    run(tmp_path, FetchRequest(url=server.url, sha256=SUM))
    assert is_whole(tmp_path)


def test_sums_that_are_not_ours_are_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  something\n")
    with pytest.raises(DatasetError, match="SHA256SUMS is there already"):
        run(tmp_path, FetchRequest(url=server.url, sha256=SUM))
    assert files_in(tmp_path) == {"SHA256SUMS": f"{'0' * 64}  something\n".encode()}


@pytest.mark.parametrize("lines", [1, 3])
def test_sums_of_ours_that_lack_files_are_not_believed(server: Server, tmp_path: Path, lines: int) -> None:
    run(tmp_path, FetchRequest(url=server.url, sha256=SUM))
    sums = (tmp_path / "SHA256SUMS").read_text().splitlines(keepends=True)
    (tmp_path / "SHA256SUMS").write_text("".join(sums[:lines]))
    for line in sums[lines:]:
        (tmp_path / line.split()[1]).unlink()
    assert run(tmp_path, FetchRequest(url=server.url, sha256=SUM)).was_there is False
    assert is_whole(tmp_path)


def test_files_that_are_equal_are_all_known_again(tmp_path: Path) -> None:
    alike = pack({name: records(4) if name.endswith(".bin") else content for name, content in contents().items()})
    (tmp_path / "archive").write_bytes(alike)
    request = FetchRequest(archive=tmp_path / "archive", sha256=sha256(alike))
    assert [run(tmp_path / "data", request).was_there for _ in range(2)] == [False, True]


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(DatasetError, match="not a folder"):
        run(tmp_path / "data", FetchRequest(url="http://127.0.0.1:9/"))


def test_a_layout_that_is_published_nowhere_says_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="bring it yourself"):
        fetch(replace(LAYOUT, source=None), tmp_path, FetchRequest(), lambda told: None, lambda line: None)


def test_every_published_layout_puts_its_files_where_its_parts_are_read() -> None:
    for layout in LAYOUTS.values():
        if layout.source is None:
            continue
        for part in layout.format.parts:
            inside = [
                path
                for member in layout.source.members.values()
                if Path(path := member.path).match(f"{part.folder}/{part.pattern}")
            ]
            assert inside, f"{layout.name}: nothing for {part.name}"


def test_the_lock_is_one_that_other_processes_see(server: Server, tmp_path: Path) -> None:
    server.script = ["stall 1000"]
    thread = threading.Thread(target=run, args=(tmp_path, FetchRequest(url=server.url, sha256=SUM)))
    thread.start()
    assert server.stalled.wait(10)
    with open(tmp_path / ".fetch/lock", "rb") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    server.closing.set()
    thread.join(30)
    assert is_whole(tmp_path)
