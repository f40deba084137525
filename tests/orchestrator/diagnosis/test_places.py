"""Rank, process, device and time, from paths and lines as launchers and loggers write them."""

from __future__ import annotations

import pytest

from orchestrator.diagnosis.places import Place, is_quiet, pid_of, place_of_path, rank_of, time_of


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("msrun_log/worker_3.log", Place(rank=3)),
        ("train_parallel12/train.log", Place(rank=12)),
        ("train_parallel7/log.txt", Place(rank=7)),
        ("out/run_1/attempt_0/5/stderr.log", Place(rank=5)),
        ("rank_76/debug/plog/plog-12337_20230704214646084.log", Place(rank=76, pid=12337)),
        ("worker-0/process_log/debug/device-11/device-1382_20250806223914702.log", Place(None, 11, 1382, "worker-0")),
        ("job-proc-rank-6-device-6.txt", Place(rank=6)),
        ("10.0.0.12/train_1.log", Place(rank=1, host="10.0.0.12")),
        ("logs/0.log", Place(rank=0)),
        ("logs/012.log", Place()),
        ("scheduler.log", Place()),
        ("frank_9_lives.log", Place()),
    ],
)
def test_a_path_tells_whose_log_it_is(path: str, place: Place) -> None:
    assert place_of_path(path) == place


@pytest.mark.parametrize(
    ("line", "rank"),
    [
        ("[rank3]: RuntimeError: x", 3),
        ("[rank 3] RuntimeError: x", 3),
        ("[default7]:Traceback (most recent call last):", 7),
        ("[ERROR] 2024-07-03-19:45:13 (PID:62743, Device:11, RankID:43) ERR02005 DIST internal error", 43),
        ("[ERROR] 2024-07-03-19:45:13 (PID:62743, Device:11, RankID:-1) ERR02005 DIST internal error", None),
        ("[TRACE] HCCL(1,p): [hcom.cc:264][hccl-83434-0-1669821563-hccl_world_group][1]hcom destroy", 1),
        ("hcom init failed, rankNum[8], rank[5], server[10.0.0.1]", 5),
        ("wait socket establish timeout, role[1] rank[1] timeout[120 s]", None),
        ("createLink para:rank[1]-localUserrank[4]-localIpAddr[10.0.0.1/1], remoteUserrank[0]", 4),
        ("[rank88888888888]: x", None),
    ],
)
def test_a_line_tells_its_rank(line: str, rank: int) -> None:
    assert rank_of(line) == rank


@pytest.mark.parametrize(
    ("line", "pid"),
    [
        ("[ERROR] HCCL(17528,python3):2026-03-18-10:33:52", 17528),
        ("[ERROR]HCCL(835695,all_reduce_test):2025-10-23-17:28:06", 835695),
        ("[ERROR] 2024-07-03-19:45:13 (PID:62743, Device:11, RankID:43)", 62743),
        ("EI0006: [PID: 1292363] 2025-04-08-18:07:20.444.436 Getting", 1292363),
        ("main(17528, x)", None),
    ],
)
def test_a_line_tells_its_process(line: str, pid: int) -> None:
    assert pid_of(line) == pid


@pytest.mark.parametrize(
    ("earlier", "later", "seconds"),
    [
        ("2022-11-30-23:31:08.729.325", "2022-12-01-00:00:00.000.000", 1731.270675),
        ("2025-11-21 01:20:01,123 - INFO", "2025-11-21T01:20:02.123456Z", 1.000456),
        ("[W326 11:49:12.331714626 x.ts:133]", "E0326 11:49:13.331714 139", 1.0),
    ],
)
def test_times_of_one_log_can_be_subtracted(earlier: str, later: str, seconds: float) -> None:
    first, last = time_of(earlier), time_of(later)
    assert first is not None and last is not None
    assert last - first == pytest.approx(seconds, abs=1e-5)


@pytest.mark.parametrize(
    "line", ["xxxx-xx-xx-xx:xx:xx.xxx.xxx", "2025-13-01 01:02:03", "0000-01-01 01:02:03", "2025-01-01 25:00:00", "17"]
)
def test_what_is_no_time_is_none(line: str) -> None:
    assert time_of(line) is None


@pytest.mark.parametrize(
    ("line", "quiet"),
    [
        ("[INFO] HCCL(1,p): x", True),
        ("[WARNING] MD(1,ff,python): x", True),
        ("[rank0]:[W326 11:49:12.331714626 compiler_depend.ts:133] Warning: x", True),
        ("2025-11-21 01:20:01,123 - mmengine - WARNING - x", True),
        ("INFO:root:x", True),
        ("W1121 01:19:58.104644 139999514572608 torch/distributed/run.py:779] x", True),
        ("/usr/lib/a.py:93: UserWarning: x", True),
        ("[ERROR] HCCL(1,p): INFO", False),
        ("RuntimeError: x", False),
        ("Wait timeout for sockets", False),
        ("[E ProcessGroupHCCL.cpp:1030] x", False),
    ],
)
def test_loggers_mark_what_is_no_error(line: str, quiet: bool) -> None:
    assert is_quiet(line) == quiet
