from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.supervisor.events import Event
from orchestrator.supervisor.journal import Journal, read_events


def line(seq: int, kind: str = "k") -> bytes:
    return Event(seq, 1.0, 1.0, kind, "h").to_line().encode()


def seqs(path: Path) -> "list[int]":
    return [event.seq for event in read_events(path)[0]]


def test_a_missing_journal_has_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "journal.jsonl") == ([], 0)


def test_events_are_numbered_from_1_and_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, "node1")
    journal.append("run_started", {"pid": 5})
    journal.append("process_started", {"name": "grün\n\u2028"}, rank=3)
    journal.close()
    first, second = read_events(path)[0]
    assert (first.seq, first.kind, first.host, first.rank, first.data) == (1, "run_started", "node1", None, {"pid": 5})
    assert (second.seq, second.rank, second.data) == (2, 3, {"name": "grün\n\u2028"})
    assert second.mono >= first.mono


def test_a_reopened_journal_knows_its_past_and_goes_on_counting(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    for _ in range(3):
        journal = Journal(path, "h")
        journal.append("a")
        journal.append("b")
        journal.close()
    assert seqs(path) == [1, 2, 3, 4, 5, 6]
    assert [event.seq for event in Journal(path, "h").past] == [1, 2, 3, 4, 5, 6]


def test_a_half_written_last_line_is_left_for_the_next_look(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(line(1) + line(2)[:10])
    events, offset = read_events(path)
    assert ([event.seq for event in events], offset) == ([1], len(line(1)))
    path.write_bytes(line(1) + line(2))
    assert [event.seq for event in read_events(path, offset)[0]] == [2]


@pytest.mark.parametrize("cut", range(1, len(line(2))))
def test_a_journal_goes_on_after_a_torn_last_line(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(line(1) + line(2)[:cut])
    journal = Journal(path, "h")
    journal.append("c")
    journal.append("d")
    journal.close()
    kinds = [event.kind for event in read_events(path)[0]]
    assert kinds[0] == "k" and kinds[-2:] == ["c", "d"]
    assert read_events(path)[1] == path.stat().st_size


def test_a_line_that_lacks_its_end_only_does_not_make_two_events_of_one_number(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(line(1) + line(2)[:-1])  # killed, or out of disk, just before the last byte
    journal = Journal(path, "h")
    journal.append("c")
    journal.close()
    assert len(set(seqs(path))) == len(seqs(path))
    assert "c" in {event.kind for event in read_events(path)[0]}


@pytest.mark.parametrize("junk", [b"\n", b"junk\n", b"\xff\x00\n", b"{}\n", b"[1]\n", b"null\n", b'{"seq": 9}\n'])
def test_damaged_lines_are_passed_over(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(junk + line(1) + junk + junk + line(2) + junk)
    assert seqs(path) == [1, 2]
    assert Journal(path, "h").past[-1].seq == 2


@given(
    st.lists(st.sampled_from([b"junk", b"", b"\xc3", b"k"]), min_size=1, max_size=12),
    st.lists(st.integers(0, 1000), max_size=8),
)
def test_reading_a_growing_journal_in_any_portions_equals_reading_it_once(
    parts: "list[bytes]", cuts: "list[int]"
) -> None:
    content = b"".join(line(n, "ü") if part == b"k" else part + b"\n" for n, part in enumerate(parts, start=1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.jsonl"
        found, offset = [], 0
        for size in [*sorted(cuts), len(content)]:
            path.write_bytes(content[:size])
            events, offset = read_events(path, offset)
            found += events
        assert offset == len(content)
        assert found == read_events(path)[0]
        assert [event.seq for event in found] == [n for n, part in enumerate(parts, start=1) if part == b"k"]


def test_a_program_that_tells_half_of_a_character_does_not_stop_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", "h")
    journal.append("phase", {"phase": "\ud800"}, rank=0)  # json.loads of "\ud800" gives this
    journal.append("phase", {"phase": "train"}, rank=0)
    journal.close()
    assert seqs(tmp_path / "journal.jsonl") == [1, 2]


FULL_DISK = """
import resource, sys
from pathlib import Path
from orchestrator.supervisor.journal import Journal, read_events

folder = Path(sys.argv[1])
for limit in range(1, 420):
    path = folder / f"{limit}.jsonl"
    journal = Journal(path, "h")
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for number in range(6):
        journal.append(f"event-{number}")
    assert not journal.flush(), "six events fit into no such limit"
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit + 25, resource.RLIM_INFINITY))
    journal.append("event-6")  # a little room: not enough for a line
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert journal.flush(), "there is room again"
    journal.append("event-7")
    journal.close()
    events = {event.seq: event for event in read_events(path)[0]}  # whoever folds passes over a number told twice
    assert list(events) == list(range(1, 9)), (limit, list(events))
    assert [event.kind for event in events.values()] == [f"event-{n}" for n in range(8)], limit
    assert read_events(path)[1] == path.stat().st_size, limit
print("nothing lost")
"""


def test_a_full_disk_delays_events_and_loses_none(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "nothing lost\n", done.stderr


def test_a_journal_that_cannot_be_opened_says_so_with_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Journal(tmp_path / "no folder" / "journal.jsonl", "h")
