"""`ascendrun data` as a user meets it: the real command, a real server, a real disk that is full."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archives import FOLDER, Server, contents, make_folder, pack, records, serving, sha256
from tests.conftest import wait_for

ARCHIVE = pack(contents())
SUM = sha256(ARCHIVE)


@pytest.fixture
def server() -> "Iterator[Server]":
    with serving(ARCHIVE) as server:
        yield server


def test_fetch_then_check_then_fetch_again(cli, server: Server) -> None:
    arguments = ("data", "fetch", "cifar", "--url", server.url, "--sha256", SUM)
    first = cli(*arguments)
    assert first.stdout == "cifar: 7 files, checksum proven\n"
    assert first.stderr.splitlines()[0] == f"downloading {server.url}"
    assert any("(100%)" in line or " of " in line for line in first.stderr.splitlines())
    checked = cli("data", "check", "cifar")
    assert checked.stdout.splitlines()[-1] == "cifar: fine"
    assert checked.stdout.splitlines()[-2].split() == ["all", "100", "20"]
    assert cli(*arguments).stdout == "cifar: already here and whole, 7 files\n"
    assert subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=cli.folder / "cifar").returncode == 0
    assert len(server.seen) == 1


def test_ctrl_c_leaves_a_part_that_the_next_fetch_goes_on_with(cli, server: Server) -> None:
    server.script = ["stall 100000"]
    arguments = ("data", "fetch", "cifar", "--url", server.url, "--sha256", SUM)
    process = cli.start(*arguments)
    assert server.stalled.wait(30)
    part = cli.folder / "cifar/.fetch" / f"{SUM[:16]}.part"
    wait_for(part.exists)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors
    size = part.stat().st_size
    assert 0 < size <= 100000
    cli(*arguments)
    assert server.seen[-1]["Range"] == f"bytes={size}-"
    assert (cli.folder / "cifar" / FOLDER / "data_batch_1.bin").read_bytes() == contents()[f"{FOLDER}/data_batch_1.bin"]


def test_a_killed_fetch_is_gone_on_with(cli, server: Server) -> None:
    server.script = ["stall 100000"]
    arguments = ("data", "fetch", "cifar", "--url", server.url, "--sha256", SUM)
    process = cli.start(*arguments)
    assert server.stalled.wait(30)
    process.kill()
    process.communicate(timeout=30)
    cli(*arguments)
    assert cli("data", "check", "cifar").stdout.endswith("cifar: fine\n")


@pytest.fixture
def small_disk(cli) -> "Iterator[Path]":
    """A disk of 512 kB."""
    disk = cli.folder / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_told_in_one_line_before_a_download_and_while_unpacking(
    cli, server: Server, small_disk: Path
) -> None:
    (cli.folder / "archive").write_bytes(ARCHIVE)
    told = cli("data", "fetch", "disk/a", "--archive", "archive", "--sha256", SUM).stdout
    assert told  # it fits once
    done = cli("data", "fetch", "disk/b", "--url", server.url, "--sha256", SUM, code=3)
    assert "bytes are needed on this disk" in done.stderr.splitlines()[-1]
    done = cli("data", "fetch", "disk/b", "--archive", "archive", "--sha256", SUM, code=3)
    assert "the disk is full; make room" in done.stderr.splitlines()[-1]
    assert os.listdir(small_disk) == ["a"]
    done = cli("data", "sample", "disk/c", "--train=500", "--test=500", code=1)
    assert done.stderr.strip() == f"sknet.sample: cannot write {small_disk / 'c'}: No space left on device"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["fetch"], 2, "Missing argument 'DIR'"),
        (["fetch", "x", "--url", "nonsense"], 2, "--url: 'nonsense' is no HTTP address"),
        (["fetch", "x", "--url", "http://127.0.0.1:1/x"], 3, "no connection: Connection refused"),
        (["fetch", "x", "--url", "http://h/", "--archive", "a"], 2, "either --url or --archive"),
        (["fetch", "x", "--archive", "gone"], 2, "gone: No such file"),
        (["fetch", "x", "--sha256", "12"], 2, "64 hexadecimal digits"),
        (["fetch", "x", "--layout", "cifar10-binry"], 2, "did you mean 'cifar10-binary'?"),
        (["fetch", "file"], 2, "not a folder"),
        (["sample", "x", "--train=0"], 2, "must be at least 1"),
        (["sample", "x", "--train=many"], 2, "not a valid integer"),
        (["sample", "file"], 1, "cannot write"),
        (["check", "gone"], 2, "gone: no such folder"),
        (["check", "file"], 2, "file: not a folder"),
        (["check", "."], 2, "no folder cifar-10-batches-bin"),
        (["check", ".", "--class-num=0"], 2, "--class-num"),
        (["chek", "."], 2, "chek"),
    ],
)
def test_what_the_user_gets_wrong_is_one_line(cli, arguments: "list[str]", code: int, says: str) -> None:
    (cli.folder / "file").touch()
    done = cli("data", *arguments, code=code)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("downloading ")]
    assert len(lines) == 1 and says in lines[0], done.stderr
    assert done.stdout == ""
    assert not (cli.folder / "x").exists()


def test_a_sample_is_made_checked_and_left_alone_by_a_fetch(cli) -> None:
    cli("data", "sample", "small", "--train", "30", "--test", "20")
    assert cli("data", "check", "small").stdout.splitlines()[-2].split() == ["all", "30", "20"]
    again = cli("data", "sample", "small", "--train", "31", "--test", "20", code=2)
    assert "choose another folder" in again.stderr and again.stderr.count("\n") == 1
    assert "is there already" in cli("data", "fetch", "small", code=2).stderr


def test_ctrl_c_ends_a_large_sample_and_leaves_nothing_half(cli) -> None:
    process = cli.start("data", "sample", "large", "--train", "1000000000")
    wait_for(lambda: list(cli.folder.glob("large/*/.data_batch_1.bin.*")))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not [path for path in (cli.folder / "large").rglob("*") if path.is_file()]


def test_a_sampler_that_cannot_run_is_told_in_one_line(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    (cli.folder / "numpy.py").write_text("raise ModuleNotFoundError(\"No module named 'numpy'\")")
    cli.environment["PYTHONPATH"] = str(cli.folder)
    done = cli("data", "sample", "small", code=3)
    assert "No module named 'numpy'; it comes with `pip install 'ascendrun[cpu]'`" in done.stderr
    assert done.stderr.count("\n") == 1


def test_damage_is_told_with_file_and_record_and_in_json(cli) -> None:
    wrong = bytes([77]) + records(1, salt=5)[1:]
    make_folder(cli.folder / "data", records(10) + wrong * 2, records(10, salt=1)[:-1])
    done = cli("data", "check", "data", code=2)
    assert "data_batch_1.bin: record 10 and 1 more of this file: label 77, of 10 classes" in done.stdout
    assert "test_batch.bin: 30,729 bytes is not a whole number of 3,073-byte records" in done.stdout
    assert "warning: training: 1 picture there already, earlier in the same part" in done.stdout
    told = json.loads(cli("data", "check", "data", "--json", code=2).stdout)
    assert told["fine"] is False
    assert told["parts"][0]["classes"] == [1] * 10
    assert told["parts"][0]["pictures"] == 12
    assert [(damage["record"], damage["count"]) for damage in told["damages"]] == [(10, 2), (None, 1)]
    fine = json.loads(cli("data", "check", "data", "--class-num", "78", "--json", code=2).stdout)
    assert fine["parts"][0]["classes"][77] == 2


def test_a_server_cannot_reach_into_the_terminal(cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"\x1b]0;owned\x07 hello\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        done = cli("data", "fetch", "cifar", "--url", f"http://127.0.0.1:{other.getsockname()[1]}/x", code=3)
        thread.join()
    assert "no connection: ?]0;owned? hello" in done.stderr


def test_names_of_files_need_not_be_unicode(cli) -> None:
    cli.environment["PYTHONIOENCODING"] = "utf-8:strict"  # as a terminal of a language has it
    folder = make_folder(cli.folder / os.fsdecode(b"data\xff"), records(10), records(10, salt=1))
    assert cli("data", "check", folder.name).stdout.endswith("data?: fine\n")
    assert json.loads(cli("data", "check", folder.name, "--json").stdout)["folder"] == folder.name


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python cannot be told so before 3.11")
def test_no_file_of_the_folder_we_stand_in_becomes_a_module_of_the_sampler(cli) -> None:
    (cli.folder / "colorsys.py").write_text("raise SystemExit(7)")
    cli("data", "sample", "small", "--train", "10", "--test", "10")


def test_data_alone_prints_its_help(cli) -> None:
    assert "fetch" in cli("data").stdout
