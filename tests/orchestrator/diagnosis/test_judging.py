"""From sightings of many ranks to the rank that failed first, and why."""

from __future__ import annotations

from orchestrator.diagnosis.judging import Endings, Explanation, Log, explain
from orchestrator.diagnosis.places import place_of_path
from orchestrator.diagnosis.rules import Category
from tests.orchestrator.diagnosis.conftest import Scans

ECHO = "2025-11-21 01:50:0{0} EI0002: The wait execution of the Notify register times out. Reason: remote rank [{1}].\n"
DISK = "2025-11-21 01:20:0{0} OSError: [Errno 28] No space left on device\n"
INNER = "EE9999: Inner Error!\n"


def told(scan: Scans, logs: "dict[str, str]", endings: "Endings | None" = None) -> Explanation:
    return explain([Log(name, place_of_path(name), scan(text)) for name, text in logs.items()], scan.rules, endings)


def code(made: Explanation) -> "str | None":
    return made.rule.code if made.rule is not None else None


def test_the_earliest_rank_that_says_what_failed_outweighs_those_that_waited(scan: Scans) -> None:
    made = told(
        scan, {"worker_0.log": ECHO.format(1, 2), "worker_1.log": DISK.format(5), "worker_2.log": DISK.format(4)}
    )
    assert (code(made), made.first_rank, made.waiting) == ("disk-full", 2, (0,))
    assert [one.rank for one in made.evidence] == [2, 1]


def test_what_supervisors_saw_outweighs_clocks(scan: Scans) -> None:
    logs = {"worker_1.log": DISK.format(1), "worker_2.log": "2025-11-21 01:20:09 MemoryError\n"}
    made = told(scan, logs, Endings(first=2, of_rank={2: "exit code 1"}))
    assert (code(made), made.first_rank, made.ending) == ("host-memory", 2, "exit code 1")
    assert [rule.code for rule, _, _ in made.also] == ["disk-full"]


def test_a_rank_that_was_killed_in_silence_is_told_by_its_signal(scan: Scans) -> None:
    made = told(scan, {"worker_0.log": ECHO.format(1, 1), "worker_1.log": "step 3\n"}, Endings(1, {}, {1: 9}))
    assert (code(made), made.first_rank, made.evidence) == ("killed", 1, ())


def test_who_is_waited_for_is_followed_to_the_rank_that_waits_for_nobody(scan: Scans) -> None:
    made = told(scan, {f"worker_{rank}.log": ECHO.format(rank, rank + 1) for rank in range(3)})
    assert (code(made), made.first_rank, made.suspects) == ("hccl-notify-timeout", 3, (3,))


def test_ranks_that_did_not_report_are_counted_from_those_that_did(scan: Scans) -> None:
    server = (
        "[ERROR] HCCL(1,t):2025-11-21-01:20:01.625.112 [a.cc:503] [1]need connect rankNum is [4]\n"
        "[ERROR] HCCL(1,t):2025-11-21-01:20:01.625.145 [a.cc:517] [1]connected rankinfo[LINE 0]: [0000],[0002];\n"
    )
    made = told(scan, {"worker_0.log": server})
    assert (code(made), made.first_rank, made.suspects) == ("hccl-ranks-missing", None, (1, 3))


def test_the_one_silent_rank_is_suspected_where_nobody_is_named(scan: Scans) -> None:
    waiting = "RuntimeError: [gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 8000ms for recv operation\n"
    made = told(scan, {"worker_0.log": waiting, "worker_1.log": "loading\n", "worker_2.log": waiting})
    assert (made.first_rank, made.waiting) == (1, (0, 2))


def task(rank: int, at: str, call: str) -> str:
    head = f"[ERROR] HCCL(7{rank},t):2025-10-24-{at}.000.000 [t.cc:908] [7]"
    return f"{head}Task run failed, base information is tag[{call}_group_1].\n"


def test_ranks_that_wait_in_different_collectives_are_told_so(scan: Scans) -> None:
    made = told(
        scan,
        {"rank_0/log.txt": task(0, "22:03:14", "AllReduce"), "rank_1/log.txt": task(1, "22:03:15", "AllGather")},
    )
    assert (code(made), made.category) == ("collectives-differ", Category.USER_CODE)
    assert made.details["calls"] == "rank 0 AllReduce, rank 1 AllGather"


def test_the_rank_that_gave_up_long_after_the_others_came_late(scan: Scans) -> None:
    made = told(
        scan,
        {"rank_0/log.txt": task(0, "22:03:14", "AllReduce"), "rank_1/log.txt": task(1, "22:08:58", "AllReduce")},
    )
    assert (code(made), made.first_rank, made.details["seconds"]) == ("rank-late", 1, "344")


def test_nobody_is_late_where_a_rank_never_gave_up(scan: Scans) -> None:
    logs = {f"rank_{rank}/log.txt": task(rank, f"22:0{rank * 3}:14", "AllReduce") for rank in range(2)}
    made = told(scan, {**logs, "rank_2/log.txt": "loading\n"})
    assert (code(made), made.first_rank) == ("hccl-notify-timeout", 2)


def test_processes_of_plogs_are_ranks_by_what_their_logs_begin_with(scan: Scans) -> None:
    begin = "[INFO] HCCL({0},t):2025-11-21-01:00:00.000.000 [o.cc:1] [1]Entry-Hccl:ranks[2], rank[{1}], root\n"
    made = told(
        scan,
        {
            "h/run/plog/plog-71_20251121012000001.log": begin.format(71, 1),
            "h/debug/plog/plog-71_20251121012000001.log": "EJ0002: The network port is down.\n",
        },
    )
    assert (code(made), made.first_rank) == ("nic-link-down", 1)


def test_an_inner_error_alone_stays_unknown_and_says_what_it_is(scan: Scans) -> None:
    made = told(scan, {"worker_0.log": INNER})
    assert (made.known, made.retriable, code(made)) == (False, None, "cann-inner-error")


def test_logs_without_a_word_of_it_are_unknown(scan: Scans) -> None:
    made = told(scan, {"worker_0.log": "step 1\n"}, Endings(first=0, of_rank={0: "exit code 3"}))
    assert (made.known, made.rule, made.first_rank, made.ending) == (False, None, 0, "exit code 3")
    assert not told(scan, {}).known


def test_a_warning_counts_where_nothing_else_is_found_and_is_no_cause(scan: Scans) -> None:
    slow = "[WARNING] MD(1,ff,python):2025-11-21-01:20:01.624.966 Bad performance attention, it takes more than 25 s\n"
    made = told(scan, {"worker_0.log": slow})
    assert (made.known, code(made)) == (False, "dataset-slow")
    assert code(told(scan, {"worker_0.log": slow + DISK.format(1)})) == "disk-full"
