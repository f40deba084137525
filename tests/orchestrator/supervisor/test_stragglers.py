from __future__ import annotations

from typing import Any

import pytest

from orchestrator.supervisor.stragglers import Change, Stragglers


def steps(number: int, *took_s: Any) -> "dict[int, dict[str, Any]]":
    return {rank: {"epoch": 1, "step": number, "step_s": one} for rank, one in enumerate(took_s)}


def test_a_rank_that_is_slow_for_many_steps_is_told_once_and_again_when_it_is_over() -> None:
    stragglers = Stragglers()
    changes = [change for number in range(60) for change in stragglers.look(steps(number, 1.0, 1.1, 2.0, 0.9))]
    assert changes == [Change(2, True, 2.0, 1.0)]
    changes = [change for number in range(60, 120) for change in stragglers.look(steps(number, 1.0, 1.1, 1.0, 0.9))]
    assert [(change.rank, change.slow) for change in changes] == [(2, False)]


def test_steps_between_two_looks_count() -> None:
    stragglers = Stragglers()
    stragglers.look(steps(1, 1.0, 1.0, 3.0))
    assert [change.rank for change in stragglers.look(steps(21, 1.0, 1.0, 3.0))] == [2]


def test_a_slow_step_now_and_then_makes_no_straggler() -> None:
    stragglers = Stragglers()
    for number in range(200):
        assert stragglers.look(steps(number, 1.0, 1.0, 3.0 if number % 15 == 0 else 1.0)) == []


def test_a_rank_that_makes_no_steps_is_not_judged_anew_at_each_look() -> None:
    stragglers = Stragglers()
    for _ in range(100):
        assert stragglers.look(steps(7, 1.0, 1.0, 5.0)) == []


def test_a_rank_alone_has_nobody_to_be_compared_with() -> None:
    stragglers = Stragglers()
    assert all(stragglers.look(steps(number, 1.0 + number)) == [] for number in range(100))


@pytest.mark.parametrize("value", [None, "1", 0, -1, [], float("nan")])
def test_what_is_no_duration_is_passed_over(value: Any) -> None:
    stragglers = Stragglers()
    for number in range(50):
        assert stragglers.look(steps(number, 1.0, value, 1.0)) == []
