"""When a quiet rank hangs: recorded and generated courses of ranks, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.supervisor.hang import Hang, Hangs, Look

TICK_S = 10.0
IDLE, BUSY = Look(busy=False), Look(busy=True)


def step(number: int, *, epoch: int = 1, steps: Optional[int] = None, **seen: Any) -> Look:
    fact = {"epoch": epoch, "step": number, **({"steps": steps} if steps else {})}
    return Look(**{"told": True, "busy": True, "step": fact, **seen})


def phase(name: str) -> Look:
    return Look(told=True, busy=True, phase=name)


def quiet(last: Look, **seen: Any) -> Look:
    return replace(last, told=False, **{"busy": False, **seen})


def pass_time(hangs: Hangs, seconds: float, **looks: Look) -> "list[Hang]":
    """Look every second while ranks r0, r1, … show the same; return the first hangs."""
    for _ in range(int(seconds)):
        found = hangs.look(1.0, {int(name[1:]): look for name, look in looks.items()})
        if found:
            return found
    return []


def trained(hangs: Hangs, *, ranks: int = 2, steps: Optional[int] = 1000, epochs: int = 1) -> Look:
    """Have *ranks* make steps of a second through *epochs* and into the next; return the last look."""
    last = IDLE
    for epoch in range(1, epochs + 1):
        for number in range(1, 31):
            last = step(number, epoch=epoch, steps=steps)
            assert hangs.look(1.0, {rank: last for rank in range(ranks)}) == []
    if epochs > 1:
        last = step(5, epoch=epochs + 1, steps=steps)
        hangs.look(1.0, {rank: last for rank in range(ranks)})
    return last


# ── found ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ranks_that_fall_silent_between_two_steps_hang_after_a_minute_if_they_say_when_they_do_something_else() -> None:
    hangs = Hangs()
    hangs.look(1.0, {0: phase("train"), 1: phase("train")})
    last = trained(hangs)
    assert not pass_time(hangs, 60, r0=quiet(last), r1=quiet(last, busy=True))
    found = hangs.look(1.0, {0: quiet(last), 1: quiet(last, busy=True)})
    assert [(hang.rank, hang.phase, hang.limit_s) for hang in found] == [(0, "step", 60.0), (1, "step", 60.0)]


def test_an_endless_loop_in_a_program_that_only_logs_its_steps_is_given_the_time_of_an_evaluation() -> None:
    hangs = Hangs()
    last = trained(hangs, steps=None, epochs=2)
    assert not pass_time(hangs, 900, r0=quiet(last, busy=True), r1=quiet(last, busy=True, logged=True))
    assert pass_time(hangs, 2, r0=quiet(last, busy=True), r1=quiet(last, busy=True))


def test_a_rank_that_is_stopped_while_another_runs_hangs_before_a_collective_gives_up() -> None:
    hangs = Hangs()
    last = trained(hangs)
    found = pass_time(hangs, 29, r0=quiet(last), r1=quiet(last, suspended=True))
    assert [(hang.rank, hang.suspended, hang.quiet_s) for hang in found] == [(1, True, 15.0)]


def test_a_run_that_is_stopped_as_a_whole_was_paused_by_somebody() -> None:
    hangs = Hangs()
    last = quiet(trained(hangs), suspended=True)
    assert not pass_time(hangs, 290, r0=last, r1=last)


def test_a_limit_set_by_hand_holds_once_steps_are_made_and_gives_a_compile_ten_times_as_long() -> None:
    hangs = Hangs(hang_after_s=20)
    assert not pass_time(hangs, 200, r0=BUSY, r1=BUSY)
    last = trained(hangs)
    assert not pass_time(hangs, 20, r0=quiet(last, busy=True), r1=quiet(last))
    assert pass_time(hangs, 1, r0=quiet(last, busy=True), r1=quiet(last))


def test_a_limit_set_by_hand_holds_for_a_start_in_which_nothing_happens() -> None:
    assert not pass_time(Hangs(hang_after_s=20), 20, r0=IDLE)
    assert pass_time(Hangs(hang_after_s=20), 21, r0=IDLE)


def test_a_limit_of_nought_finds_nothing_ever() -> None:
    hangs = Hangs(hang_after_s=0)
    last = trained(hangs)
    assert not pass_time(hangs, 20_000, r0=quiet(last), r1=quiet(last, suspended=True))


def test_one_silent_rank_beside_others_that_go_on_is_told_after_an_hour() -> None:
    hangs = Hangs()
    last = trained(hangs)
    for number in range(3600):
        assert hangs.look(1.0, {0: step(number, steps=9999), 1: quiet(last)}) == []
    assert [hang.rank for hang in pass_time(hangs, 60, r0=step(1), r1=quiet(last))] == [1]


# ── let be ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_first_evaluation_of_fifty_minutes_after_the_first_epoch_is_no_hang() -> None:
    hangs = Hangs()
    last = trained(hangs, steps=None)  # LossMonitor: nobody says how long an epoch is
    assert not pass_time(hangs, 3000, r0=quiet(last, busy=True), r1=quiet(last))


def test_ranks_that_wait_for_one_that_evaluates_do_not_hang() -> None:
    hangs = Hangs()
    hangs.look(1.0, {0: phase("train"), 1: phase("train")})
    last = trained(hangs)
    hangs.look(1.0, {0: phase("evaluate"), 1: quiet(last)})
    assert not pass_time(hangs, 3000, r0=quiet(phase("evaluate"), busy=True), r1=quiet(last))


def test_a_rank_that_never_tells_anything_is_not_judged_beside_one_that_does() -> None:
    hangs = Hangs()
    for number in range(1, 5000):
        assert hangs.look(1.0, {0: step(number, steps=9999), 1: IDLE}) == []


def test_what_another_host_does_is_given_time() -> None:
    hangs = Hangs(ranks_elsewhere=True)
    hangs.look(1.0, {0: phase("train"), 1: phase("train")})
    last = trained(hangs)
    assert not pass_time(hangs, 299, r0=quiet(last), r1=quiet(last))
    assert pass_time(hangs, 2, r0=quiet(last), r1=quiet(last))


def test_a_program_that_tells_no_steps_may_compute_for_ever_and_be_idle_for_an_hour() -> None:
    assert not pass_time(Hangs(), 100_000, r0=BUSY)
    assert not pass_time(Hangs(), 3600, r0=IDLE)
    assert pass_time(Hangs(), 3601, r0=IDLE)


def test_without_figures_no_rank_counts_as_idle() -> None:
    hangs = Hangs()
    last = trained(hangs, steps=None, epochs=2)
    unknown = quiet(last, busy=None)
    assert not pass_time(hangs, 900, r0=unknown, r1=unknown)


def test_a_rank_that_has_ended_is_not_waited_for() -> None:
    hangs = Hangs()
    hangs.look(1.0, {0: phase("train"), 1: phase("train")})
    last = trained(hangs)
    assert [hang.rank for hang in pass_time(hangs, 61, r0=quiet(last))] == [0]


# ── courses of healthy runs ──────────────────────────────────────────────────────────────────────────────────


def stretch(look: Look, seconds: float) -> Iterator[Look]:
    for _ in range(int(seconds / TICK_S)):
        yield look


@st.composite
def courses(draw: st.DrawFn) -> "list[Look]":
    """Return what a healthy rank shows: a long start, epochs of steps of varying length, evaluations, checkpoints."""
    declares, tells_length = draw(st.booleans()), draw(st.booleans())
    typical_s = draw(st.floats(0.1, 60))
    looks = [*stretch(BUSY, draw(st.floats(0, 3000)))]
    if declares:
        looks += [phase("compile"), *stretch(quiet(phase("compile"), busy=True), draw(st.floats(0, 3000)))]
    pause_s = draw(st.floats(0, 1500))  # an evaluation, a checkpoint
    for epoch in range(1, draw(st.integers(2, 4))):
        last = IDLE
        for number in range(1, 13):
            last = step(number, epoch=epoch, steps=12 if tells_length else None)
            slow = draw(st.sampled_from([1, 1, 1, 1.5, 3]))
            looks += [last, *stretch(quiet(last), typical_s * slow)]
        if declares:
            last = phase(draw(st.sampled_from(["evaluate", "checkpoint"])))
            looks.append(last)
        looks += [*stretch(quiet(last, busy=draw(st.sampled_from([True, None]))), pause_s * draw(st.floats(0.5, 2)))]
    return looks


@settings(max_examples=120)
@given(st.lists(courses(), min_size=1, max_size=3), st.booleans())
def test_no_healthy_course_is_called_a_hang(ranks: "list[list[Look]]", elsewhere: bool) -> None:
    hangs = Hangs(ranks_elsewhere=elsewhere)
    for tick in range(max(len(course) for course in ranks)):
        running = {rank: course[tick] for rank, course in enumerate(ranks) if tick < len(course)}
        assert hangs.look(TICK_S, running) == [], tick


@settings(max_examples=100)
@given(courses(), st.integers(0, 10_000), st.sampled_from([True, False, None]))
def test_silence_for_ever_is_found_at_any_point_of_a_course_in_which_steps_were_made(
    course: "list[Look]", at: int, busy: Optional[bool]
) -> None:
    hangs = Hangs()
    first = next(index for index, look in enumerate(course) if look.step)
    cut = first + at % (len(course) - first)
    for look in course[: cut + 1]:
        assert hangs.look(TICK_S, {0: look}) == []
    limits = hangs.limits(0)
    found: "list[Hang]" = []
    waited_s = 0.0
    while not found and waited_s <= limits.busy_s + 2 * TICK_S:
        found = hangs.look(TICK_S, {0: quiet(course[cut], busy=busy)})
        waited_s += TICK_S
    assert found and found[0].limit_s <= 7 * 3600


@given(st.lists(st.floats(1, 4000), min_size=12, max_size=20))
def test_a_silence_as_long_as_one_that_ended_well_is_no_hang(silences: "list[float]") -> None:
    hangs = Hangs()
    hangs.look(1.0, {0: step(0, steps=9999)})
    for number, silence_s in enumerate(silences, start=1):
        hangs.look(silence_s, {0: step(number, steps=9999)})
    assert hangs.look(max(silences), {0: quiet(step(1))}) == []


@pytest.mark.parametrize("value", [None, "7", [], {}, float("nan")])
def test_whatever_a_program_writes_as_its_step_is_followed(value: Any) -> None:
    hangs = Hangs()
    for key in ("epoch", "step", "steps"):
        fact = {"epoch": 1, "step": 1, "steps": 3, key: value}
        assert hangs.look(1.0, {0: Look(told=True, step=fact)}) == []
