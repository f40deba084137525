"""Logs as they lie on disks: folders of any launcher, packed, damaged, huge, or no logs at all."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import explain
from orchestrator.errors import RunNotFoundError

DISK = "OSError: [Errno 28] No space left on device\n"
HEALTHY = "epoch: 1 step: 1, loss is 2.3\n"


def code(report: explain.Report) -> "str | None":
    return report.explanation.rule.code if report.explanation.rule is not None else None


@pytest.mark.parametrize(("pack", "suffix"), [(gzip.compress, ".gz"), (bz2.compress, ".bz2"), (lzma.compress, ".xz")])
def test_packed_logs_are_read_by_what_they_hold(pack: "Callable[[bytes], bytes]", suffix: str, tmp_path: Path) -> None:
    for name in (f"worker_3.log{suffix}", "worker_4.log"):  # a name without the suffix does not matter
        (tmp_path / name).write_bytes(pack((HEALTHY * 3 + DISK).encode()))
    report = explain.explain_paths([str(tmp_path)])
    assert (code(report), report.explanation.first_rank, report.files, report.notes) == ("disk-full", 3, 2, ())
    assert [report.lines[one] for one in report.explanation.evidence] == [4, 4]


def test_a_packed_log_that_breaks_off_gives_what_it_still_has(tmp_path: Path) -> None:
    whole = gzip.compress((HEALTHY + DISK + "".join(f"step {number * 7919}\n" for number in range(90_000))).encode())
    (tmp_path / "worker_0.log.gz").write_bytes(whole[: len(whole) // 2])
    report = explain.explain_paths([str(tmp_path)])
    assert code(report) == "disk-full"
    assert len(report.notes) == 1
    assert "worker_0.log.gz: not read to its end" in report.notes[0]


def test_only_logs_of_a_folder_are_read(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    for name in ("train.py", "config.yaml", "events.json", ".hidden.log", "net.ckpt"):
        (tmp_path / name).write_text(DISK)
    (tmp_path / "core.4121").write_bytes(b"\x7fELF\0\0" + DISK.encode())
    (tmp_path / "empty.log").touch()
    os.mkfifo(tmp_path / "pipe.log")
    (tmp_path / "link.log").symlink_to(tmp_path / "train.py")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "log").write_text(HEALTHY)
    report = explain.explain_paths([str(tmp_path)])
    assert (report.files, report.explanation.known) == (1, False)


def test_a_file_that_is_named_is_read_whatever_it_is_called(tmp_path: Path) -> None:
    path = tmp_path / "saved.json"
    path.write_text(DISK)
    assert code(explain.explain_paths([str(path)])) == "disk-full"


def test_what_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match=r"nothing\.log: neither a run nor a file or folder of logs"):
        explain.explain_paths([str(tmp_path / "nothing.log")])
    with pytest.raises(RunNotFoundError, match="no logs in there"):
        explain.explain_paths([str(tmp_path)])
    with pytest.raises(RunNotFoundError, match="not a regular file"):
        explain.explain_paths(["/dev/zero"])
    (tmp_path / "core").write_bytes(b"\x7fELF\0\0")
    with pytest.raises(RunNotFoundError, match="no text in there"):
        explain.explain_paths([str(tmp_path)])


def test_a_file_that_may_not_be_read_is_told_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "worker_0.log").write_text(DISK)
    os.mkfifo(tmp_path / "pipe")
    report = explain.explain_paths([str(tmp_path / "pipe"), str(tmp_path / "worker_0.log")])
    assert code(report) == "disk-full"
    assert "pipe: not read to its end: not a regular file" in report.notes[0]


def test_the_middle_of_large_logs_is_searched_for_errors_and_their_ends_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "_ALL_BYTES", 1000)
    monkeypatch.setattr(explain, "_ENDS_BYTES", 0)
    steps = "".join(f"epoch: 1 step: {number}, loss is 2.3\n" for number in range(100_000))
    killed = "train.sh: line 3: 4121 Killed                  python train.py\n"
    for rank, last in enumerate((killed, "")):
        (tmp_path / f"worker_{rank}.log").write_text(steps + ("" if last else DISK) + steps + last)
    report = explain.explain_paths([str(tmp_path)])
    assert (code(report), report.explanation.first_rank) == ("disk-full", 1)
    assert [rule.code for rule, _, _ in report.explanation.also] == ["killed"]
    assert report.lines[report.explanation.evidence[0]] == 100_001


def test_several_folders_are_one_job(tmp_path: Path) -> None:
    for host, text in (("node1", HEALTHY), ("node2", DISK)):
        (tmp_path / host).mkdir()
        (tmp_path / host / "stdout.log").write_text(text)
    report = explain.explain_paths([str(tmp_path / "node1"), str(tmp_path / "node2")])
    assert report.files == 2
    assert report.explanation.evidence[0].log.endswith("node2/stdout.log")
