"""Logs as they lie on disks: folders of any launcher, packed, damaged, huge, or no logs at all."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator import explain, packed
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


# ── archives ───────────────────────────────────────────────────────────────────────────────────────────────


def tar(members: "dict[str, bytes]", mode: str = "w", form: int = tarfile.PAX_FORMAT) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode=mode, format=form) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return held.getvalue()


def zipped(members: "dict[str, bytes]") -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return held.getvalue()


JOB = {
    "log/rank_0/train.log": HEALTHY.encode() * 2000,
    f"log/{'a-long-name-' * 12}/rank_7/train.log": (HEALTHY * 3 + DISK).encode(),
    "log/rank_8/train.log.gz": gzip.compress((HEALTHY * 2 + DISK).encode()),
    "log/net.ckpt": DISK.encode(),
}
ARCHIVES = {
    "logs.tar": tar(JOB),
    "logs.gnu.tar": tar(JOB, form=tarfile.GNU_FORMAT),
    "logs.tar.gz": tar(JOB, "w:gz"),
    "logs.tgz": tar(JOB, "w:gz"),
    "logs.tar.bz2": tar(JOB, "w:bz2"),
    "logs.tar.xz": tar(JOB, "w:xz"),
    "logs.zip": zipped(JOB),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_is_a_folder_of_logs(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(ARCHIVES[name])
    for where in (tmp_path / name, tmp_path):  # named, and found
        report = explain.explain_paths([str(where)])
        assert (code(report), report.files, report.notes) == ("disk-full", 3, ())
        lines = {one.rank: (report.lines[one], one.log) for one in report.explanation.evidence}
        assert {rank: line for rank, (line, _) in lines.items()} == {7: 4, 8: 3}
        assert lines[8][1].endswith(f"{name}/log/rank_8/train.log.gz")


def test_an_archive_in_a_folder_that_does_not_speak_of_logs_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "cifar10.tar.gz").write_bytes(ARCHIVES["logs.tar.gz"])
    (tmp_path / "train.log").write_text(HEALTHY)
    assert explain.explain_paths([str(tmp_path)]).files == 1


def test_nothing_that_an_archive_names_leads_out_of_it(tmp_path: Path) -> None:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, kind, link in (("rank_1/log.txt", tarfile.SYMTYPE, "/etc/passwd"), ("dev", tarfile.CHRTYPE, "")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, link
            archive.addfile(entry)
        entry = tarfile.TarInfo("../../\x1b[31mrank_2.log")
        entry.size = len(DISK)
        archive.addfile(entry, io.BytesIO(DISK.encode()))
    (tmp_path / "a").write_bytes(held.getvalue())
    report = explain.explain_paths([str(tmp_path / "a")])
    assert report.files == 1
    assert report.explanation.evidence[0].log == f"{tmp_path}/a/../../?[31mrank_2.log"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["logs.tar", "logs.tar.gz"])
def test_an_archive_that_breaks_off_gives_what_it_still_has_and_a_note(name: str, tmp_path: Path) -> None:
    noise = "".join(f"step {number * 7919}\n" for number in range(90_000))
    whole = tar({"rank_3.log": DISK.encode(), "rank_4.log": noise.encode()}, "w:gz" if name.endswith("gz") else "w")
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    report = explain.explain_paths([str(tmp_path / name)])
    assert (code(report), report.explanation.first_rank) == ("disk-full", 3)
    assert len(report.notes) <= 2
    assert report.notes[0].startswith(f"{tmp_path / name}")
    assert "not read to its end" in report.notes[0]


def test_a_zip_without_its_end_is_told(tmp_path: Path) -> None:
    (tmp_path / "logs.zip").write_bytes(ARCHIVES["logs.zip"][:-40])
    with pytest.raises(RunNotFoundError, match=r"logs\.zip: not read to its end: the archive is damaged"):
        explain.explain_paths([str(tmp_path / "logs.zip")])


def test_a_member_without_a_name_is_told(tmp_path: Path) -> None:
    (tmp_path / "logs.zip").write_bytes(zipped({"QQ": DISK.encode()}).replace(b"QQ", b"\0Q"))
    with pytest.raises(RunNotFoundError, match=r"logs\.zip: not read to its end"):
        explain.explain_paths([str(tmp_path / "logs.zip")])


def test_a_bomb_is_left_where_no_log_is_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MOST_BYTES", 2 << 20)
    text = DISK.encode() + b"step\n" * (1 << 20)
    for name, data in (("a.log.gz", gzip.compress(text)), ("b.zip", zipped({"b.log": text, "c.log": text}))):
        (tmp_path / name).write_bytes(data)
        report = explain.explain_paths([str(tmp_path / name)])
        assert code(report) == "disk-full"
        assert report.size_bytes <= 2 << 20
        assert "GiB unpacked" in report.notes[0]


def test_a_header_that_claims_more_than_a_name_can_have_costs_no_memory(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    (tmp_path / "long.tar").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + b"n" * 4096)
    with pytest.raises(RunNotFoundError, match="the archive breaks off"):
        explain.explain_paths([str(tmp_path / "long.tar")])
    whole = bytearray(ARCHIVES["logs.zip"])
    struct.pack_into("<L", whole, whole.rindex(b"PK\x05\x06") + 12, 1 << 30)
    (tmp_path / "long.zip").write_bytes(whole)
    with pytest.raises(RunNotFoundError, match="damaged or has too many files"):
        explain.explain_paths([str(tmp_path / "long.zip")])


def test_canns_own_logs_are_those_of_the_rank_whose_process_wrote_them(tmp_path: Path) -> None:
    logs = {
        "worker_0.log": "[INFO] HCCL(71,t):2025-10-24-11:16:52.724.374 [o.cc:1] [71]Entry:ranks[2], rank[0], root\n",
        "worker_1.log": "[INFO] HCCL(82,t):2025-10-24-11:16:52.724.374 [o.cc:1] [82]Entry:ranks[2], rank[1], root\n",
        "ascend/log/debug/plog/plog-71_20251024111650000.log": HEALTHY,
        "ascend/log/debug/device-1/device-82_20251024111650000.log": "[ERROR] RUNTIME(9,p): hbm Multi-bit ECC error\n",
    }
    for name, text in logs.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    report = explain.explain_paths([str(tmp_path)])
    assert (code(report), report.explanation.first_rank) == ("hbm-multi-bit-ecc", 1)
