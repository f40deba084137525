"""Which rank is blamed, from what hosts told, in every order in which it may arrive."""

from __future__ import annotations

import random
from typing import Any, Optional

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.runstate import Outcome, RankState, RunState, fold
from orchestrator.supervisor.events import Event
from orchestrator.verdict import Cause, Verdict, verdict
from tests.orchestrator.test_clues import CLUSTER, HCCL, RING, SCHEDULER

PEER_TEXTS = [RING, CLUSTER, RING + CLUSTER, HCCL, "ConnectionResetError: [Errno 104] Connection reset by peer"]


class Host:
    """What one host tells; its clock is its own."""

    def __init__(self, name: str, mono: float) -> None:
        self.name, self.mono = name, mono
        self.events: "list[tuple[str, Optional[int], dict[str, Any], float]]" = []

    def tell(self, kind: str, rank: Optional[int] = None, *, after: float = 0.01, **data: Any) -> None:
        self.mono += after
        self.events.append((kind, rank, data, self.mono))

    def ends(self, rank: int, code: Optional[int], text: str = "", *, after: float = 0.01, **data: Any) -> None:
        self.mono += after
        tail = {"tail": text.splitlines()} if code != 0 else {}
        told = {"code": code, "mono": self.mono, **tail, **data}
        self.events.append(("process_exited", rank, told, self.mono))


def state_of(hosts: "list[Host]", ranks: "dict[int, str]", order: "random.Random | None" = None) -> RunState:
    """Fold what hosts told, each in its own order, mixed as they may arrive."""
    rng = order or random.Random(0)
    waiting = {host.name: list(host.events) for host in hosts}
    state = RunState(Outcome.NOT_STARTED, False, tuple(RankState(rank, host) for rank, host in sorted(ranks.items())))
    merged = [Event(1, 0.0, 0.0, "run_started", "here")]
    while any(waiting.values()):
        name = rng.choice(sorted(name for name, left in waiting.items() if left))
        kind, rank, data, mono = waiting[name].pop(0)
        merged.append(Event(len(merged) + 1, 0.0, mono, kind, name, rank, data))
    return fold(state, merged)


def judged(*hosts: Host, ranks: int = 4) -> Verdict:
    names = [host.name for host in hosts]
    of = {rank: names[rank * len(names) // ranks] for rank in range(ranks)}
    found = verdict(state_of(list(hosts), of))
    assert found is not None
    return found


def started(name: str = "a", mono: float = 100.0, ranks: "tuple[int, ...]" = (0, 1, 2, 3)) -> Host:
    host = Host(name, mono)
    for rank in ranks:
        host.tell("process_started", rank, pid=rank)
    return host


# ── one case each ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("code", "data", "text", "cause", "retriable"),
    [
        (3, {}, "", Cause.EXIT_CODE, True),
        (None, {"signal": 9}, "", Cause.SIGNAL, True),
        (None, {"signal": 11}, "Fatal Python error: Segmentation fault", Cause.SIGNAL, True),
        (1, {}, "Traceback\nValueError: boom", Cause.EXCEPTION, True),
        (1, {}, "Traceback\nImportError: no", Cause.IMPORT_ERROR, False),
        (2, {}, "train.py: error: unrecognized arguments", Cause.USER_ERROR, False),
        (127, {"error": "/bin/x: No such file or directory"}, "", Cause.USER_ERROR, False),
        (1, {}, "Traceback\nMemoryError", Cause.OUT_OF_MEMORY, True),
        (1, {}, "OSError: [Errno 28] No space left on device", Cause.DISK_FULL, False),
        (1, {}, "RuntimeError: Address already in use", Cause.PORT_TAKEN, True),
    ],
)
def test_a_rank_that_says_why_it_ended_is_believed(
    code: Optional[int], data: "dict[str, Any]", text: str, cause: Cause, retriable: bool
) -> None:
    host = started()
    host.ends(2, code, text, **data)
    host.tell("stopping", 2, cause="rank_failed")
    for rank in (0, 1, 3):
        host.ends(rank, None, signal=15)
    found = judged(host)
    assert (found.cause, found.rank, found.host, found.retriable) == (cause, 2, "a", retriable)
    assert found.confidence >= 0.8


def test_a_kill_for_want_of_memory_is_told_from_a_kill() -> None:
    host = started()
    host.tell("out_of_memory", 1, by="cgroup", evidence="oom_kill rose to 1")
    host.ends(1, None, signal=9)
    found = judged(host)
    assert (found.cause, found.rank) == (Cause.OUT_OF_MEMORY, 1)
    assert "oom_kill rose to 1" in found.evidence


def test_a_loss_that_is_no_number_is_the_cause_of_the_exit_that_follows() -> None:
    host = started()
    for rank in range(4):
        host.tell("nan_loss", rank, epoch=1, step=3)
    for rank in range(4):
        host.ends(rank, 1, "sknet.train: the loss is nan at epoch 1 step 3; lower --lr_max")
    found = judged(host)
    assert (found.cause, found.retriable) == (Cause.NAN_LOSS, False)
    assert "step 3" in found.sentence and "the same on rank 1-3" in found.evidence


ALARM = {"what": "health", "severity": "fault", "level": 2, "before": "OK", "now": "Alarm", "codes": ["8C03A000"]}


def failed_on_an_ill_device(ill: int, code: Optional[int], text: str = "", **data: Any) -> Verdict:
    """Return the verdict where rank 2 ends, with the device of rank *ill* reported before."""
    host = started()
    host.tell("health", ill, device=ill, **ALARM)
    host.ends(2, code, text, **data)
    host.tell("stopping", 2, cause="rank_failed")
    for rank in (0, 1, 3):
        host.ends(rank, None, signal=15)
    return judged(host)


@pytest.mark.parametrize(
    ("code", "data", "text"), [(1, {}, "RuntimeError: call aclrtSynchronizeStream failed"), (None, {"signal": 6}, "")]
)
def test_a_rank_that_ends_on_a_device_that_was_reported_ill_ended_of_it(
    code: Optional[int], data: "dict[str, Any]", text: str
) -> None:
    found = failed_on_an_ill_device(2, code, text, **data)
    assert (found.cause, found.rank, found.host, found.retriable) == (Cause.DEVICE, 2, "a", True)
    assert found.confidence >= 0.9
    assert found.sentence.startswith("device 2 of a: health is Alarm, was OK (8C03A000); rank 2, ")


@pytest.mark.parametrize(
    ("code", "text"), [(1, "Traceback\nImportError: no"), (1, "OSError: [Errno 28] No space left on device")]
)
def test_a_device_is_not_to_blame_for_what_says_a_cause_of_its_own(code: int, text: str) -> None:
    assert failed_on_an_ill_device(2, code, text).cause in (Cause.IMPORT_ERROR, Cause.DISK_FULL)


def test_an_ill_device_of_another_rank_outweighs_only_what_is_not_sure() -> None:
    sure = failed_on_an_ill_device(3, None, signal=11)
    assert (sure.cause, sure.rank) == (Cause.SIGNAL, 2)
    assert "device 3 of a was reported: health is Alarm, was OK (8C03A000)" in sure.evidence
    felt = failed_on_an_ill_device(3, 1, HCCL)
    assert (felt.cause, felt.rank) == (Cause.DEVICE, 3)
    assert felt.confidence < 0.9


def test_a_warning_about_a_device_is_no_fault_and_a_new_attempt_begins_without_the_old_ones() -> None:
    host = started()
    host.tell("health", 2, device=2, **{**ALARM, "severity": "warning"})
    host.ends(2, 3)
    assert judged(host).cause is Cause.EXIT_CODE
    host = started()
    host.tell("health", 2, device=2, **ALARM)
    host.tell("attempt_started", attempt=2)
    state = state_of([host], dict.fromkeys(range(4), "a"))
    assert (state.conditions.ailments, state.conditions.faults) == ((), ())


def test_what_is_over_ails_no_more_and_stays_a_fault_of_the_attempt() -> None:
    host = started()
    host.tell("health", 2, device=2, **ALARM)
    host.tell("health", 1, device=1, what="temperature", severity="warning", level=1, before=52, now=90)
    host.tell("health_over", 2, device=2, what="health", level=0, now="OK")
    state = state_of([host], dict.fromkeys(range(4), "a"))
    assert [one.sentence() for one in state.conditions.ailments] == ["90 °C, was 52 °C"]
    assert [one.place for one in state.conditions.faults] == ["device 2 of a"]


def test_a_culprit_that_is_slow_to_end_is_found_behind_victims_that_were_quick() -> None:
    host = started()
    for rank in (0, 1, 3):
        host.ends(rank, 1, RING)
    host.tell("stopping", 0, cause="rank_failed")
    host.ends(2, 1, "Traceback\nValueError: boom", after=0.8)
    assert (judged(host).cause, judged(host).rank) == (Cause.EXCEPTION, 2)


def test_a_rank_that_ends_with_0_while_its_peers_fail_of_it_ended_too_early() -> None:
    host = started()
    host.ends(1, 0)
    host.ends(0, 1, RING, after=30.0)
    found = judged(host, ranks=2)
    assert (found.cause, found.rank) == (Cause.ENDED_EARLY, 1)


def test_a_rank_that_ends_with_0_long_before_its_peers_fall_silent_is_not_missed() -> None:
    host = started()
    host.ends(1, 0)
    host.tell("hang", 0, after=500.0, phase="step", quiet_s=60.0, limit_s=60.0, since_mono=host.mono + 440)
    assert judged(host, ranks=2).cause is Cause.HANG


def test_a_rank_that_ends_with_0_and_whose_peers_went_on_is_not_missed() -> None:
    host = started()
    host.tell("progress", ranks={"0": {"epoch": 1, "step": 500}, "1": {"epoch": 1, "step": 30}})
    host.ends(1, 0)
    host.ends(0, 1, RING, after=1000.0)
    assert judged(host, ranks=2).cause is Cause.UNKNOWN


def test_ranks_that_hang_after_one_ended_with_0_waited_for_it() -> None:
    host = started()
    host.ends(1, 0)
    host.tell("hang", 0, after=61.0, phase="step", quiet_s=60.0, limit_s=60.0, since_mono=host.mono + 1)
    found = judged(host, ranks=2)
    assert (found.cause, found.rank) == (Cause.ENDED_EARLY, 1)


def test_when_nobody_says_why_the_verdict_says_so() -> None:
    host = started()
    for rank in range(4):
        host.ends(rank, 1, RING)
    found = judged(host)
    assert found.cause is Cause.UNKNOWN and found.confidence <= 0.3


def test_a_host_that_is_silent_is_what_its_peers_lost() -> None:
    here = started("a", ranks=(0, 1))
    here.ends(0, 1, CLUSTER)
    here.tell("host_silent", host="b", reason="no route")
    found = judged(here, started("b", ranks=(2, 3)))
    assert (found.cause, found.host, found.rank) == (Cause.HOST_LOST, "b", None)


def test_the_port_of_the_scheduler_that_is_taken_is_the_cause() -> None:
    host = started()
    host.tell("process_exited", None, process="scheduler", code=1, tail=["RuntimeError: bind: Address already in use"])
    host.tell("stopping", None, cause="scheduler_failed")
    for rank in range(4):
        host.ends(rank, None, signal=15)
    found = judged(host)
    assert (found.cause, found.rank) == (Cause.PORT_TAKEN, None)


def test_a_scheduler_that_missed_a_rank_points_to_the_one_that_was_stopped() -> None:
    host = started()
    host.tell("process_exited", None, process="scheduler", code=1, tail=SCHEDULER.splitlines())
    host.tell("stacks", 1, **STOPPED)
    host.tell("stopping", None, cause="scheduler_failed")
    found = judged(host)
    assert (found.cause, found.rank) == (Cause.HANG, 1)


def test_a_scheduler_that_was_killed_is_the_cause_itself() -> None:
    host = started()
    host.tell("process_exited", None, process="scheduler", code=None, signal=9)
    host.tell("stopping", None, cause="scheduler_failed")
    found = judged(host)
    assert (found.cause, found.rank, found.sentence) == (Cause.SIGNAL, None, "MindSpore's scheduler, SIGKILL")


def test_a_rank_that_was_asked_to_end_by_another_and_saved_was_stopped() -> None:
    host = started()
    for rank in range(4):
        host.ends(rank, 75)
    assert judged(host).cause is Cause.STOPPED


def test_a_run_that_was_stopped_says_by_whom_and_one_that_goes_on_says_nothing() -> None:
    host = started()
    names = {rank: "a" for rank in range(4)}
    assert verdict(state_of([host], names)) is None
    host.tell("stopping", cause="requested", by="me")
    host.ends(0, None, signal=15)
    host.tell("run_finished")
    found = verdict(state_of([host], names))
    assert found is not None and (found.cause, found.sentence) == (Cause.STOPPED, "stopped by me")


# ── ranks that hang ──────────────────────────────────────────────────────────────────────────────────────────

WAITS = {"frames": ["all_reduce (train.py:9)"], "in_collective": True, "state": "S", "busy": False}
ELSEWHERE = {"frames": ["load (data.py:3)"], "in_collective": False, "state": "S", "busy": True}
STOPPED = {"frames": ["all_reduce (train.py:9)"], "in_collective": True, "state": "T", "busy": False}
NOTHING = {"frames": [], "in_collective": None, "state": "S", "busy": False}
HUNG = {"phase": "step", "quiet_s": 61.0, "limit_s": 60.0, "since_mono": 90.0}


def hung(**stacks: "dict[str, Any]") -> Verdict:
    host = started()
    for name in stacks:
        host.tell("hang", int(name[1:]), **HUNG)
    for name, facts in stacks.items():
        host.tell("stacks", int(name[1:]), **facts)
    host.tell("stopping", 0, cause="hang")
    return judged(host, ranks=len(stacks))


def test_the_rank_that_is_not_in_the_collective_is_what_the_others_wait_for() -> None:
    found = hung(r0=WAITS, r1=WAITS, r2=ELSEWHERE, r3=WAITS)
    assert (found.cause, found.rank) == (Cause.HANG, 2)
    assert "load (data.py:3)" in found.sentence and found.confidence > 0.9


def test_the_rank_that_is_stopped_is_to_blame_wherever_it_is() -> None:
    assert hung(r0=WAITS, r1=STOPPED, r2=ELSEWHERE, r3=WAITS).rank == 1


def test_ranks_that_all_wait_in_a_collective_hang_there_and_nobody_is_blamed() -> None:
    found = hung(r0=WAITS, r1=WAITS, r2=WAITS)
    assert (found.cause, found.rank) == (Cause.HANG_IN_COLLECTIVE, None)
    assert found.confidence <= 0.5


def test_without_stacks_the_one_that_computes_is_likelier_than_the_one_that_waits() -> None:
    found = hung(r0=NOTHING, r1={**NOTHING, "busy": True})
    assert found.rank == 1 and found.confidence < 0.9


def test_a_rank_alone_is_the_one_that_hangs() -> None:
    assert (hung(r0=ELSEWHERE).cause, hung(r0=ELSEWHERE).rank) == (Cause.HANG, 0)


# ── every order ──────────────────────────────────────────────────────────────────────────────────────────────

FAULTS = [
    (Cause.EXCEPTION, 1, {}, "Traceback\nValueError: boom"),
    (Cause.IMPORT_ERROR, 1, {}, "Traceback\nModuleNotFoundError: No module named 'x'"),
    (Cause.SIGNAL, None, {"signal": 9}, ""),
    (Cause.SIGNAL, None, {"signal": 11}, "Fatal Python error: Segmentation fault"),
    (Cause.DISK_FULL, 1, {}, "OSError: [Errno 28] No space left on device"),
    (Cause.EXIT_CODE, 3, {}, ""),
]


@settings(max_examples=200)
@given(st.integers(2, 8), st.integers(1, 3), st.integers(0, 7), st.sampled_from(FAULTS), st.integers(0, 2**32))
def test_of_ranks_that_die_within_a_second_the_culprit_is_named_whatever_is_told_first(
    size: int, count: int, culprit: int, fault: Any, seed: int
) -> None:
    rng = random.Random(seed)
    culprit %= size
    cause, code, data, text = fault
    hosts = [Host(f"h{index}", rng.uniform(0, 1e6)) for index in range(count)]
    ranks = {rank: rng.choice(hosts).name for rank in range(size)}
    for host in hosts:
        mine = [rank for rank, name in ranks.items() if name == host.name]
        for rank in mine:
            host.tell("process_started", rank, pid=rank)
        rng.shuffle(mine)
        if culprit in mine:  # on its own host it is the first to end
            mine.remove(culprit)
            host.ends(culprit, code, text, after=rng.uniform(0, 1), **data)
        stopping = False
        for rank in mine:
            failed = any(kind == "process_exited" for kind, *_ in host.events)
            if failed and not stopping and rng.random() < 0.4:
                host.tell("stopping", None, cause="rank_failed")
                stopping = True
            if stopping and rng.random() < 0.5:
                host.ends(rank, None, signal=15)
            elif rng.random() < 0.2:
                host.ends(rank, None, CLUSTER, signal=15)  # MindSpore's cluster client ends a process so
            else:
                host.ends(rank, 1, rng.choice(PEER_TEXTS), after=rng.uniform(0, 0.5))
    found = verdict(state_of(hosts, ranks, rng))
    assert found is not None
    assert (found.cause, found.rank, found.host) == (cause, culprit, ranks[culprit])


numbers = st.one_of(st.none(), st.integers(-1, 3), st.floats(), st.text(max_size=3))
data = st.dictionaries(
    st.sampled_from(["code", "signal", "mono", "cause", "by", "quiet_s", "limit_s", "since_mono", "in_collective",
                     "state", "busy", "epoch", "step", "phase", "reason", "host", "what", "severity", "device", "now"]),
    numbers, max_size=6,
)  # fmt: skip
kinds = ["process_started", "process_exited", "process_lost", "hang", "stacks", "out_of_memory", "nan_loss", "stopping",
         "straggler", "straggler_over", "disk_low", "disk_low_over", "run_finished", "host_silent",
         "health", "health_over"]  # fmt: skip


@example([("hang", 0, {"limit_s": "0"})])
@given(st.lists(st.tuples(st.sampled_from(kinds), st.one_of(st.none(), st.integers(0, 2)), data), max_size=15))
def test_whatever_the_journal_holds_the_verdict_is_none_or_whole(facts: "list[Any]") -> None:
    events = [Event(1, 0.0, 0.0, "run_started", "a")]
    for kind, rank, told in facts:
        clean = {key: value for key, value in told.items() if key != "mono" or isinstance(value, float)}
        for key in ("code", "signal"):
            if not isinstance(clean.get(key), (int, type(None))):
                clean.pop(key)
        events.append(Event(len(events) + 1, 0.0, float(len(events)), kind, "a", rank, clean))
    state = fold(RunState(Outcome.NOT_STARTED, False, tuple(RankState(rank, "a") for rank in range(3))), events)
    found = verdict(state)
    if found is not None:
        assert found.sentence and 0 <= found.confidence <= 1
        assert found.rank is None or found.host == "a"
    assert (found is None) == (state.outcome not in (Outcome.FAILED, Outcome.STOPPED))
