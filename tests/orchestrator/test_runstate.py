from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan import RunPlan
from orchestrator.runstate import Outcome, RankPhase, RunState, fold, initial_state
from orchestrator.supervisor.events import Event

MakePlan = Callable[..., RunPlan]
Told = "tuple[str, Optional[int], dict[str, Any]]"


def told(*facts: Any) -> "list[Event]":
    """Return events one second apart, from (kind, rank, data)."""
    return [
        Event(seq, 1000.0 + seq, 50.0 + seq, kind, "node1", rank, data)
        for seq, (kind, rank, data) in enumerate(facts, start=1)
    ]


def started(rank: int, pid: int = 100) -> Any:
    return ("process_started", rank, {"process": f"rank-{rank}", "pid": pid + rank})


def exited(rank: int, code: Optional[int] = 0, **data: Any) -> Any:
    return ("process_exited", rank, {"process": f"rank-{rank}", "code": code, **data})


BEGUN = (("run_started", None, {"pid": 9}), started(0), started(1))
STOP = ("stopping", None, {"cause": "requested", "by": "me", "grace_s": 5})
PEERS_STOP = ("stopping", 1, {"cause": "rank_failed", "grace_s": 5})
FINISHED = ("run_finished", None, {})


@pytest.fixture(scope="session")
def new(make_run_plan: MakePlan) -> RunState:
    return initial_state(make_run_plan(ranks=2))


def phases(state: RunState) -> "list[RankPhase]":
    return [rank.phase for rank in state.ranks]


def test_a_planned_run_has_not_started_and_its_ranks_wait(new: RunState) -> None:
    assert new.outcome is Outcome.NOT_STARTED
    assert not new.finished
    assert phases(new) == [RankPhase.WAITING, RankPhase.WAITING]
    assert dict(new.lead()) == {}


def test_ranks_that_have_started_run_and_have_a_pid(new: RunState) -> None:
    state = fold(new, told(*BEGUN))
    assert state.outcome is Outcome.RUNNING
    assert phases(state) == [RankPhase.RUNNING, RankPhase.RUNNING]
    assert [rank.pid for rank in state.ranks] == [100, 101]
    assert state.started_at == 1001.0


def test_a_run_whose_ranks_all_end_with_0_has_succeeded(new: RunState) -> None:
    state = fold(new, told(*BEGUN, exited(0, cpu_s=3.5, peak_rss_bytes=77), exited(1), FINISHED))
    assert (state.outcome, state.finished) == (Outcome.SUCCEEDED, True)
    assert phases(state) == [RankPhase.SUCCEEDED, RankPhase.SUCCEEDED]
    assert (state.rank(0).cpu_s, state.rank(0).peak_rss_bytes) == (3.5, 77)
    assert state.first_failure is None
    assert state.ended_at == 1006.0


def test_the_duration_is_taken_from_the_monotonic_clock_alone(new: RunState) -> None:
    events = told(*BEGUN, exited(0), exited(1), FINISHED)
    turned_back = [replace(event, at=event.at - 86_400 * event.seq) for event in events]
    assert fold(new, events).duration_s == fold(new, turned_back).duration_s == 4.0


def test_a_finished_run_does_not_grow_older(new: RunState) -> None:
    events = told(*BEGUN, exited(0), exited(1), FINISHED, ("something_later", None, {}))
    assert fold(new, events).duration_s == 4.0


def test_a_run_has_failed_at_its_first_failing_rank_before_its_peers_are_down(new: RunState) -> None:
    state = fold(new, told(*BEGUN, exited(1, 3, tail=["Traceback", "boom"]), PEERS_STOP))
    assert (state.outcome, state.finished, state.first_failure) == (Outcome.FAILED, False, 1)
    assert phases(state) == [RankPhase.RUNNING, RankPhase.FAILED]
    assert state.rank(1).ending() == "exit code 3"
    assert state.rank(1).tail == ("Traceback", "boom")


def test_peers_that_are_ended_after_a_failure_are_stopped_and_take_no_blame(new: RunState) -> None:
    state = fold(new, told(*BEGUN, exited(1, 3), PEERS_STOP, exited(0, None, signal=15), FINISHED))
    assert (state.outcome, state.finished, state.first_failure) == (Outcome.FAILED, True, 1)
    assert phases(state) == [RankPhase.STOPPED, RankPhase.FAILED]


def test_the_first_of_two_failures_is_the_one_that_counts(new: RunState) -> None:
    state = fold(new, told(*BEGUN, exited(1, 3), exited(0, 4), PEERS_STOP, FINISHED))
    assert state.first_failure == 1
    assert phases(state) == [RankPhase.FAILED, RankPhase.FAILED]


def test_a_rank_that_ends_by_a_signal_that_was_not_ours_was_not_stopped_by_us(new: RunState) -> None:
    killing = ("killing", None, {"processes": ["rank-1"]})
    state = fold(new, told(*BEGUN, STOP, exited(0, None, signal=9), killing, exited(1, None, signal=9), FINISHED))
    assert phases(state) == [RankPhase.FAILED, RankPhase.STOPPED]
    assert (state.outcome, state.first_failure) == (Outcome.STOPPED, None)


def test_a_run_that_was_told_to_stop_is_stopped_and_not_failed(new: RunState) -> None:
    state = fold(new, told(*BEGUN, STOP, exited(0, None, signal=15), exited(1, 143), FINISHED))
    assert (state.outcome, state.stopping, state.stopped_by) == (Outcome.STOPPED, True, "me")
    assert phases(state) == [RankPhase.STOPPED, RankPhase.STOPPED]
    assert state.first_failure is None


def test_a_rank_that_ends_well_while_the_run_is_stopped_has_succeeded(new: RunState) -> None:
    state = fold(new, told(*BEGUN, STOP, exited(0, 0), exited(1, None, signal=15), FINISHED))
    assert state.outcome is Outcome.STOPPED
    assert phases(state) == [RankPhase.SUCCEEDED, RankPhase.STOPPED]


def test_a_rank_whose_end_nobody_saw_is_lost_and_the_run_has_failed(new: RunState) -> None:
    state = fold(new, told(*BEGUN, ("process_lost", 0, {"tail": ["last"]}), PEERS_STOP))
    assert (state.outcome, state.first_failure) == (Outcome.FAILED, 0)
    assert phases(state)[0] is RankPhase.LOST
    assert state.rank(0).ending().startswith("unknown")
    assert state.rank(0).tail == ("last",)


def test_a_rank_lost_while_the_run_is_stopped_does_not_make_it_fail(new: RunState) -> None:
    state = fold(new, told(*BEGUN, STOP, ("process_lost", 0, {}), exited(1, None, signal=15), FINISHED))
    assert state.outcome is Outcome.STOPPED


def test_a_rank_that_could_not_start_says_why(new: RunState) -> None:
    state = fold(new, told(*BEGUN, exited(0, 127, error="/bin/x: No such file or directory")))
    assert state.outcome is Outcome.FAILED
    assert state.rank(0).ending() == "could not start: /bin/x: No such file or directory"


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (15, "SIGTERM"), (11, "SIGSEGV"), (6, "SIGABRT")])
def test_a_signal_is_told_by_its_name(new: RunState, number: int, name: str) -> None:
    assert fold(new, told(*BEGUN, exited(0, None, signal=number))).rank(0).ending() == name


def test_a_signal_without_a_name_is_told_by_its_number(new: RunState) -> None:
    assert fold(new, told(*BEGUN, exited(0, None, signal=62))).rank(0).ending() == "signal 62"


def test_a_rank_that_runs_has_no_ending(new: RunState) -> None:
    assert fold(new, told(*BEGUN)).rank(0).ending() == ""


def test_the_end_of_the_scheduler_is_no_end_of_a_rank(new: RunState) -> None:
    facts = [("process_started", None, {"process": "scheduler", "pid": 7}), exited(0)]
    facts += [("process_exited", None, {"process": "scheduler", "code": 1}), ("process_lost", None, {})]
    state = fold(new, told(*BEGUN, *facts))
    assert state.outcome is Outcome.RUNNING
    assert phases(state) == [RankPhase.SUCCEEDED, RankPhase.RUNNING]


def test_every_supervisor_that_was_killed_is_counted(new: RunState) -> None:
    adopted = ("supervisor_adopted", None, {"pid": 9, "previous_pid": 8})
    assert fold(new, told(*BEGUN)).supervisors_killed == 0
    assert fold(new, told(*BEGUN, adopted, adopted)).supervisors_killed == 2


def test_progress_adds_to_what_was_told_before(new: RunState) -> None:
    first = ("progress", None, {"ranks": {"0": {"step": 1, "loss": 2.0}, "7": {"step": 9}}})
    second = ("progress", None, {"ranks": {"0": {"step": 2}}})
    state = fold(new, told(*BEGUN, first, second))
    assert state.rank(0).latest == {"step": 2, "loss": 2.0}
    assert state.rank(1).latest == {}


def test_phases_checkpoints_evaluations_and_leftovers_are_kept_in_order(new: RunState) -> None:
    facts = [
        ("phase", 0, {"phase": "compile"}),
        ("checkpoint", 0, {"path": "a.ckpt", "epoch": 1}),
        ("checkpoint", 1, {"path": "b.ckpt", "epoch": 2}),
        ("evaluation", 0, {"top_1_accuracy": 0.9}),
        ("swept", None, {"pids": [4]}),
        ("swept", None, {"pids": [5, 6]}),
    ]
    state = fold(new, told(*BEGUN, *facts))
    assert state.rank(0).program_phase == "compile"
    assert [(one["path"], one["rank"]) for one in state.checkpoints] == [("a.ckpt", 0), ("b.ckpt", 1)]
    assert [dict(one) for one in state.evaluations] == [{"top_1_accuracy": 0.9, "rank": 0}]
    assert state.swept == (4, 5, 6)


def test_the_lead_is_the_newest_step_of_the_rank_that_is_least_far(new: RunState) -> None:
    ranks = {"0": {"epoch": 2, "step": 1}, "1": {"epoch": 1, "step": 195}}
    assert fold(new, told(*BEGUN, ("progress", None, {"ranks": ranks}))).lead() == {"epoch": 1, "step": 195}
    assert fold(new, told(*BEGUN, ("progress", None, {"ranks": {"1": {"step": 3}}}))).lead() == {"step": 3}
    assert fold(new, told(*BEGUN, ("progress", None, {"ranks": {"1": {"rss_bytes": 3}}}))).lead() == {}


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just([]), st.just({}))


@given(st.lists(st.fixed_dictionaries({}, optional={"epoch": scalars, "step": scalars}), min_size=2, max_size=2))
def test_a_lead_is_found_whatever_programs_write_as_their_step(new: RunState, steps: "list[Any]") -> None:
    event = told(("progress", None, {"ranks": {str(rank): step for rank, step in enumerate(steps)}}))
    assert isinstance(fold(new, event).lead(), dict)


# ── properties ───────────────────────────────────────────────────────────────────────────────────

ranks = st.integers(0, 1)
codes = st.fixed_dictionaries({"code": st.sampled_from([0, 0, 3, None]), "signal": st.sampled_from([None, 9])})
facts = st.one_of(
    st.tuples(st.just("run_started"), st.none(), st.just({"pid": 1})),
    st.tuples(st.just("supervisor_adopted"), st.none(), st.just({"pid": 2})),
    st.tuples(st.just("process_started"), ranks, st.just({"pid": 3})),
    st.tuples(st.just("process_exited"), st.one_of(st.none(), ranks), codes),
    st.tuples(st.just("process_lost"), st.one_of(st.none(), ranks), st.just({})),
    st.tuples(
        st.just("progress"),
        st.none(),
        st.fixed_dictionaries(
            {"ranks": st.dictionaries(st.sampled_from("01"), st.fixed_dictionaries({"step": st.integers(0, 9)}))}
        ),
    ),
    st.tuples(st.just("phase"), ranks, st.just({"phase": "train"})),
    st.tuples(st.just("checkpoint"), ranks, st.just({"path": "x"})),
    st.tuples(st.just("evaluation"), ranks, st.just({"top_1_accuracy": 1.0})),
    st.tuples(st.just("stopping"), st.none(), st.just({"cause": "requested"})),
    st.tuples(st.just("swept"), st.none(), st.just({"pids": [1]})),
    st.tuples(st.just("run_finished"), st.none(), st.just({})),
    st.tuples(st.text(max_size=5), st.one_of(st.none(), ranks), st.just({"x": 1})),
)
histories = st.lists(facts, max_size=25).map(lambda history: told(*history))


@given(histories, st.lists(st.integers(0, 25), max_size=6))
def test_folding_in_any_portions_equals_folding_at_once(
    new: RunState, history: "list[Event]", cuts: "list[int]"
) -> None:
    state, begin = new, 0
    for end in [*sorted(cuts), len(history)]:
        state, begin = fold(state, history[begin:end]), max(begin, end)
    assert state == fold(new, history)


@given(histories, st.integers(0, 25))
def test_events_told_again_change_nothing(new: RunState, history: "list[Event]", again: int) -> None:
    state = fold(new, history)
    assert fold(state, history[again:]) == state
    assert fold(new, [event for event in history for _ in (0, 1)]) == state


@given(histories, st.text(min_size=1).map(lambda kind: f"x_{kind}"))
def test_an_unknown_kind_changes_nothing_but_how_far_we_have_read(
    new: RunState, history: "list[Event]", kind: str
) -> None:
    state = fold(new, history)
    after = fold(state, [Event(len(history) + 1, 5000.0, 500.0, kind, "node1", 0, {"code": 1, "pids": [1]})])
    assert replace(after, last_seq=state.last_seq, duration_s=state.duration_s) == state


@given(histories)
def test_a_run_that_failed_stays_failed_and_names_its_first_failure(new: RunState, history: "list[Event]") -> None:
    state = fold(new, history)
    assert (state.first_failure is None) or state.rank(state.first_failure).phase is not RankPhase.WAITING
    if any(rank.phase is RankPhase.FAILED for rank in state.ranks) and history[0].kind == "run_started":
        assert state.first_failure is not None


@given(histories)
def test_events_fold_the_same_after_a_journey_through_the_journal(new: RunState, history: "list[Event]") -> None:
    again = [Event.from_line(event.to_line()) for event in history]
    assert fold(new, [event for event in again if event is not None]) == fold(new, history)
    assert all(json.loads(event.to_line())["seq"] == event.seq for event in history)
