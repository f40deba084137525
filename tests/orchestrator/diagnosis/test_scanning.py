"""Lines found in logs of any size, in blocks of any size, with what belongs to them."""

from __future__ import annotations

import pytest

from tests.orchestrator.diagnosis.conftest import Scans

STEP = "epoch: 1 step: {0}, loss is 2.3{0}\n"
DISK = "OSError: [Errno 28] No space left on device: '/data/a.ckpt'\n"
TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "/job/train.py", line 12, in main\n'
    "    raise ValueError('no space left on device')\n"
    "ValueError: part-7 is empty\n"
)


@pytest.mark.parametrize("block_bytes", [1000, 4096, 65_536, 1 << 20])
@pytest.mark.parametrize("thorough", [True, False])
def test_blocks_do_not_change_what_is_found(scan: Scans, block_bytes: int, thorough: bool) -> None:
    healthy = "".join(STEP.format(number) for number in range(5000))
    log = healthy + DISK + healthy + TRACEBACK + healthy + "[rank3]: " + DISK + healthy
    found = scan(log, block_bytes=block_bytes, thorough=thorough)
    assert [(one.rule.code, one.rank, log.encode()[one.offset :][:8]) for one in found.sightings] == [
        ("disk-full", None, b"OSError:"),
        ("python-exception", None, b"ValueErr"),
        ("disk-full", 3, b"[rank3]:"),
    ]
    assert found.size_bytes == len(log)


def test_no_line_is_lost_where_one_look_ends_and_the_next_begins(scan: Scans) -> None:
    behind = STEP.format(1) * 3000  # more than is kept back
    for before in range(4000, 6000, 15):
        log = "x" * before + "\n" + DISK + behind
        assert [one.offset for one in scan(log, block_bytes=1000).sightings] == [before + 1], before


def test_the_end_of_a_log_without_a_newline_is_read(scan: Scans) -> None:
    assert [one.rule.code for one in scan(DISK.rstrip()).sightings] == ["disk-full"]


def test_a_line_without_end_is_looked_at_in_parts(scan: Scans) -> None:
    endless = "x" * 300_000 + " OSError: [Errno 28] No space left on device " + "y" * 300_000
    for thorough in (True, False):
        (found,) = scan(endless, block_bytes=65_536, thorough=thorough).sightings
        assert found.rule.code == "disk-full"
        assert len(found.text) <= 1000


def test_the_last_state_of_a_progress_bar_is_its_line(scan: Scans) -> None:
    (found,) = scan(" 10%|#   \r 20%|##  \rMemoryError: no more\r\n").sightings
    assert found.text == "MemoryError: no more"


def test_lines_that_a_logger_marks_as_information_count_for_rules_that_ask_for_them_only(scan: Scans) -> None:
    assert scan("[WARNING] MD(1,ff,python):2025-11-21-01:20:01.624.966 No space left on device\n").sightings == []
    lost = "[INFO] HCCL(6,python):2025-10-23-07:52:59.191.363 [a.cc:9] rank [10.0.0.1/9] status[LOST]\n"
    (found,) = scan(lost).sightings
    assert (found.rule.code, found.details) == ("hccl-heartbeat-lost", {"lost_place": "10.0.0.1/9"})


def test_source_that_a_traceback_quotes_is_no_error(scan: Scans) -> None:
    (found,) = scan(TRACEBACK).sightings
    assert found.rule.code == "python-exception"
    assert found.details == {"exception": "ValueError: part-7 is empty (/job/train.py line 12, in main)"}


def test_headings_say_whose_lines_follow(scan: Scans) -> None:
    found = scan(f"rank0:\n{DISK}\nrank1:\n{DISK}==> run/rank_7/log.txt <==\n{DISK}")
    assert [one.rank for one in found.sightings] == [0, 1, 7]


def test_the_time_is_that_of_the_line_or_of_one_shortly_before(scan: Scans) -> None:
    stamped = f"2025-11-21 01:20:01,500 - INFO - saving\n{DISK}"
    early, late = scan(f"2025-11-21 01:20:00 MemoryError\n{stamped}").sightings
    assert early.at is not None and late.at is not None
    assert late.at - early.at == pytest.approx(1.5)


def test_the_head_of_a_log_tells_ranks_and_processes(scan: Scans) -> None:
    found = scan("[INFO] HCCL(71,t):2025-10-24-11:16:52.724.374 [o.cc:1] [71]Entry-Hccl:ranks[4], rank[2], root\n")
    assert (found.ranks, found.rank_of_pid, found.world_size) == ({2}, {71: 2}, 4)


def test_repeated_lines_are_counted_and_few_are_kept(scan: Scans) -> None:
    found = scan(DISK * 300)
    assert found.counts["disk-full"] == 300
    assert len(found.sightings) <= 8


def test_a_rule_that_needs_another_line_nearby_is_found_only_then(scan: Scans) -> None:
    failed = "Malloc device memory failed, free memory size is less than half of total memory size.\n"
    assert [one.rule.code for one in scan(failed).sightings] == ["device-occupied-at-start"]
    codes = [one.rule.code for one in scan(f"map operation: [PyFunc] failed.\n{failed}").sightings]
    assert codes == ["dataset-transform-failed", "dataset-workers-share-device"]


def test_binary_rubbish_is_no_log(scan: Scans) -> None:
    assert scan(bytes(range(256)) * 500).sightings == []
    assert scan(b"").sightings == []


def test_an_exception_right_below_a_frame_without_source_is_none_of_its_source(scan: Scans) -> None:
    text = '[rank0]:   File "<stdin>", line 1, in <module>\n[rank0]: OSError: [Errno 28] No space left on device\n'
    assert [one.rule.code for one in scan(text).sightings] == ["disk-full"]
    assert scan(text.replace("]: OSError", "]:     OSError")).sightings == []


def test_torchruns_summary_says_whose_signal_it_was(scan: Scans) -> None:
    text = (
        "[1]:\n  rank      : 5 (local_rank: 1)\n  exitcode  : -9 (pid: 4)\n  traceback : Signal 9 (SIGKILL) received\n"
    )
    assert {one.rank for one in scan(f"Root Cause (first observed failure):\n{text}").sightings if one.rank} == {5}


def test_what_stands_before_the_first_time_of_a_log_happened_before_it(scan: Scans) -> None:
    early, late = scan(f"MemoryError: no more\n2025-11-21 01:20:00 {DISK}").sightings
    assert early.at == late.at


def test_an_exception_is_known_where_its_traceback_was_cut_off_and_not_told_twice(scan: Scans) -> None:
    (alone,) = scan("  return f(x)\n[rank1]: KeyError: 'labels'\n").sightings
    assert alone.details == {"exception": "KeyError: 'labels'"}
    assert len(scan(TRACEBACK).sightings) == 1


def test_the_same_exception_of_many_ranks_is_seen_in_each(scan: Scans) -> None:
    assert all(scan(f"[rank{rank}]: KeyError: 'labels'\n").sightings for rank in range(20))
