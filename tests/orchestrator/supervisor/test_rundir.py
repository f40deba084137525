from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.supervisor.rundir import RunDir, write_atomically


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_written_is_there_and_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "grün\n")
    write_atomically(tmp_path / "file", "anew")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "anew"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_file_has_the_mode_it_was_given(tmp_path: Path, mode: int) -> None:
    (tmp_path / "file").touch(mode=0o666)
    write_atomically(tmp_path / "file", "x", mode=mode)
    assert mode_of(tmp_path / "file") == mode


def test_a_link_is_replaced_and_what_it_leads_to_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other", encoding="utf-8")
    (tmp_path / "file").symlink_to(tmp_path / "other")
    write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "other").read_text(encoding="utf-8") == "other"
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize("text", ["\ud800", "x"], ids=["no text", "a folder in the way"])
def test_after_a_failure_the_old_file_stays_and_the_temporary_one_is_gone(tmp_path: Path, text: str) -> None:
    target = tmp_path / "file"
    if text == "x":
        target.mkdir()
    else:
        target.write_text("old", encoding="utf-8")
    with pytest.raises((OSError, UnicodeEncodeError)):
        write_atomically(target, text)
    assert os.listdir(tmp_path) == ["file"]
    assert target.is_dir() or target.read_text(encoding="utf-8") == "old"


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path) -> None:
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from orchestrator.supervisor.rundir import write_atomically\n"
        "write_atomically(Path(sys.argv[1]), 'old')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    write_atomically(Path(sys.argv[1]), 'n' * 100_000)\n"
        "except OSError:\n"
        "    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "file")], capture_output=True, timeout=60)
    assert done.stdout == b"refused\n", done.stderr
    assert (tmp_path / "file").read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_reader_never_sees_half_a_file_even_if_the_writer_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from orchestrator.supervisor.rundir import write_atomically\n"
        "while True:\n"
        "    for letter in 'ab':\n"
        "        write_atomically(Path(sys.argv[1]), letter * 1_000_000)\n"
        "        print(letter, flush=True)\n"
    )
    whole = {b"a" * 1_000_000, b"b" * 1_000_000}
    target = tmp_path / "file"
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", program, str(target)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        try:
            writer.stdout.readline()  # it has written once
            for _ in range(60):
                assert target.read_bytes() in whole
        finally:
            writer.kill()
            writer.stdout.close()
            writer.wait()
        assert target.read_bytes() in whole


def test_every_file_of_a_run_lies_below_its_root(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.make_folders(["train_parallel0", "scheduler"])
    paths = [
        run_dir.plan,
        run_dir.host_plan,
        run_dir.journal,
        run_dir.supervisor_lock,
        run_dir.supervisor_log,
        run_dir.stop_request,
        run_dir.started("rank-0"),
        run_dir.exited("rank-0"),
        run_dir.log("train_parallel0", "train.log"),
        run_dir.env_log("train_parallel0"),
        run_dir.progress("train_parallel0"),
    ]
    assert len(set(paths)) == len(paths)
    for path in paths:
        assert tmp_path in path.parents
        path.touch(exist_ok=False)  # its folder is there


def test_the_folders_of_a_run_are_made_once_only(tmp_path: Path) -> None:
    RunDir(tmp_path).make_folders(["train"])
    with pytest.raises(FileExistsError):
        RunDir(tmp_path).make_folders(["train"])
