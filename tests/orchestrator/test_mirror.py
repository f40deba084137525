"""What a far host may have us write here, whoever holds it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import mirror
from orchestrator.errors import RunDirError
from orchestrator.farhosts import FarHost, FarHosts
from orchestrator.inventory import HostEntry
from orchestrator.plan import RunPlan
from orchestrator.store import Run
from orchestrator.supervisor.rundir import RunDir
from orchestrator.transport.base import Completed, Stream
from orchestrator.transport.local import Local

ROOT = RunDir(Path("/runs/r"))
OWN = frozenset({"train_parallel1"})
names = st.lists(
    st.sampled_from(["..", ".", "", "train_parallel1", "train_parallel0", "hosts", "node1", "plan.json", "a\nb", "\0"])
    | st.text(max_size=3),
    min_size=1,
    max_size=5,
).map("/".join)


@settings(max_examples=300)
@given(names)
def test_no_name_leads_out_of_the_folders_of_a_host(name: str) -> None:
    listed = mirror._listed(json.dumps([name, 1, 2, 0o644]).encode())
    place = mirror._place_of(listed.name, OWN, ROOT, "node2") if listed else None
    if place is not None:
        inside = [ROOT.of_host("node2"), ROOT.root / "train_parallel1"]
        assert any(folder in place.parents for folder in inside), place
        assert ".." not in place.parts


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("journal.jsonl", "hosts/node2/journal.jsonl"),
        ("plan.json", "hosts/node2/plan.json"),
        ("train_parallel1/ckpt/a b.ckpt", "train_parallel1/ckpt/a b.ckpt"),
        ("train_parallel0/train.log", None),  # another host's rank
        ("hosts/node1/journal.jsonl", None),
        ("requests/stop.json", None),
        ("evals/x/plan.json", None),
        ("host_plan.json", None),
        ("/etc/passwd", None),
        ("train_parallel1/../plan.json", None),
    ],
)
def test_a_file_has_one_place_here_or_none(name: str, place: "Optional[str]") -> None:
    assert mirror._place_of(name, OWN, ROOT, "node2") == (None if place is None else ROOT.root / place)


@pytest.mark.parametrize(
    "line",
    [b"", b"null", b"7", b"[]", b'["a", 1, 2]', b'["a", -1, 2, 3]', b'["a", 1, 2.5, 3]', b'["a", 1, 2, true]',
     b'["", 1, 2, 3]', b'[null, 1, 2, 3]', b'["a\\u0000", 1, 2, 3]', b'["a", 1e999, 2, 3]', b"[" * 100_000],
)  # fmt: skip
def test_a_line_that_no_host_of_ours_says_is_passed_over(line: bytes) -> None:
    assert mirror._listed(line) is None


def test_no_file_comes_with_more_rights_than_a_file_has() -> None:
    listed = mirror._listed(b'["a", 1, 2, 2541]')  # 0o4755
    assert listed is not None and listed.mode == 0o755


def test_a_file_that_grows_meanwhile_is_brought_as_it_was_listed(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 100_000)
    with Local() as local:
        mirror.fetch(local, str(tmp_path / "log"), tmp_path / "here/log", size=7, changed_ns=5)
    assert (tmp_path / "here/log").read_bytes() == b"x" * 7
    assert (tmp_path / "here/log").stat().st_mtime_ns == 5
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["log"]


def test_a_file_that_no_disk_here_could_hold_is_not_begun(tmp_path: Path) -> None:
    with Local() as local, pytest.raises(RunDirError, match="and the disk has"):
        mirror.fetch(local, "/dev/zero", tmp_path / "here/log", size=1 << 62)
    assert list((tmp_path / "here").iterdir()) == []


class Says(Stream):
    """A program on a far host that says what it likes."""

    def __init__(self, pieces: "Sequence[bytes]") -> None:
        self.pieces: "Iterator[bytes]" = iter(pieces)

    def read(self, timeout_s: "Optional[float]" = None) -> bytes:
        return next(self.pieces, b"")

    def write(self, data: bytes) -> None: ...
    def end_input(self) -> None: ...
    def close(self) -> None: ...

    def wait(self, timeout_s: "Optional[float]" = None) -> Completed:
        return Completed(0, b"", b"")


class SayingHost(Local):
    def __init__(self, *pieces: bytes) -> None:
        super().__init__()
        self.pieces = pieces

    def stream(self, argv: "Sequence[str]") -> Stream:
        return Says(self.pieces)


HOST = FarHost(HostEntry("node2", "node2"), "python3", "/archive", "/r")


def test_what_flows_from_a_host_is_written_at_its_place_however_many_write_it(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/log").write_bytes(b"one\n")
    for _ in range(2):  # two who watch at once, each from what was here when it began
        mirror._write_at(tmp_path / "t/log", 4, b"two\n")
    mirror._flow(RunDir(tmp_path), HOST, SayingHost(b'["t/log", 6]\nthree\n\n', b'["t/log", 2]\n4\n'), ["t/log"])
    assert (tmp_path / "t/log").read_bytes() == b"one\ntwo\nthree\n4\n"


@pytest.mark.parametrize(
    "said",
    [b'["plan.json", 3]\nxxx', b'["../x", 3]\nxxx', b'["t/log", 99999999999]\nxxx', b'["t/log", -1]\nxxx',
     b'["t/log", "3"]\nxxx', b"null\n", b'[["t/log"], 3]\nxxx', b"{}\n", b"[" * 100_000 + b"\n"],
)  # fmt: skip
def test_what_was_not_asked_for_ends_the_flow_and_is_not_written(tmp_path: Path, said: bytes) -> None:
    mirror._flow(RunDir(tmp_path), HOST, SayingHost(said), ["t/log"])
    assert not list(tmp_path.rglob("*.json")) and not (tmp_path / "t/log").exists()


@pytest.mark.parametrize("others_may", [0o020, 0o002])
def test_hosts_that_others_could_have_written_down_are_not_asked(
    tmp_path: Path, make_run_plan: "Callable[..., RunPlan]", others_may: int
) -> None:
    ran = tmp_path / "ran"
    entry = HostEntry("here", "localhost", setup=(f"touch {ran}",))
    run = Run(make_run_plan(), RunDir(tmp_path / "r"))
    run.run_dir.root.mkdir(mode=0o755)
    run.run_dir.make_folders([])
    run.run_dir.hosts.write_text(FarHosts((FarHost(entry, "false", "/archive", "/r"),)).to_json())
    assert mirror.bring(run) and ran.exists(), "our own is asked, and what its lines say is run"
    ran.unlink()
    run.run_dir.root.chmod(0o755 | others_may)
    (error,) = mirror.bring(run)
    assert "its hosts are not asked" in str(error) and not ran.exists()
