"""Who is paired with whom, and who is named, by all-reduces whose times follow from what is wrong with hosts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.checks import pairs
from orchestrator.checks.pairs import Measured

NAMES = tuple("abcdefgh")
Times = Callable[[str, str], "Optional[tuple[float, float]]"]


def fine(one: str, other: str) -> "tuple[float, float]":
    return (0.001, 0.05)


def slow_host(name: str) -> Times:
    return lambda *pair: (0.001, 2.0) if name in pair else fine(*pair)


def broken_host(name: str) -> Times:
    return lambda *pair: None if name in pair else fine(*pair)


def slow_link(*link: str) -> Times:
    return lambda *pair: (0.2, 0.06) if set(pair) == set(link) else fine(*pair)


def run(times: Times, hosts: "tuple[str, ...]" = NAMES) -> "list[Measured]":
    measured: "list[Measured]" = []
    while chosen := pairs.next_round(hosts, measured):
        names = [name for pair in chosen for name in pair]
        assert len(set(names)) == len(names), "a host is in one pair at a time"
        number = 1 + max((one.round for one in measured), default=0)
        for pair in chosen:
            got = times(*pair)
            measured.append(Measured(pair, number, *got) if got else Measured(pair, number, problem="no answer"))
    return measured


def named(measured: "list[Measured]", hosts: "tuple[str, ...]" = NAMES) -> "list[tuple[str, str]]":
    return [(fault.host, fault.problem.partition(":")[0]) for fault in pairs.faults(hosts, measured)]


def rounds(measured: "list[Measured]") -> int:
    return max(one.round for one in measured)


def test_hosts_that_are_all_fine_take_one_round_and_have_no_faults() -> None:
    measured = run(fine)
    assert [one.hosts for one in measured] == [("a", "b"), ("c", "d"), ("e", "f"), ("g", "h")]
    assert named(measured) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_slow_host_is_named_alone_after_two_rounds(name: str) -> None:
    measured = run(slow_host(name))
    assert named(measured) == [(name, "all-reduce with any host is slow")]
    assert rounds(measured) == 2
    assert len(measured) == 6


def test_a_broken_host_is_named_alone_with_what_it_said() -> None:
    (fault,) = pairs.faults(NAMES, run(broken_host("d")))
    assert (fault.host, fault.code) == ("d", "all-reduce-broken")
    assert fault.problem == "all-reduce with any host fails: no answer"


def test_a_slow_link_between_good_hosts_is_named_once_it_was_slow_again() -> None:
    measured = run(slow_link("c", "d"))
    assert named(measured) == [("c", "all-reduce over the link to d is slow")]
    assert rounds(measured) == 3


def test_a_pair_that_was_slow_once_for_some_other_reason_is_not_named() -> None:
    slow_once = iter([(0.001, 0.5)])
    measured = run(lambda *pair: next(slow_once, fine(*pair)) if pair == ("a", "b") else fine(*pair))
    assert named(measured) == []


def test_one_pair_that_is_faster_than_all_others_makes_these_no_suspects() -> None:
    assert named(run(lambda *pair: (0.0001, 0.02) if pair == ("a", "b") else fine(*pair))) == []


def test_who_is_left_over_is_paired_in_the_next_round() -> None:
    hosts = tuple("abcde")
    measured = run(slow_host("e"), hosts)
    assert measured[-1].hosts == ("e", "a")
    assert named(measured, hosts) == [("e", "all-reduce with any host is slow")]


def test_of_two_hosts_alone_nobody_can_say_whose_fault_it_is() -> None:
    assert named(run(fine, ("a", "b")), ("a", "b")) == []
    assert named(run(lambda *_: None, ("a", "b")), ("a", "b")) == [("a", "all-reduce with b fails")]


@pytest.mark.parametrize("hosts", [(), ("a",)])
def test_one_host_or_none_makes_no_pair(hosts: "tuple[str, ...]") -> None:
    assert run(fine, hosts) == []


@given(
    st.integers(4, 24),
    st.sets(st.integers(0, 23), max_size=3),
    st.sets(st.integers(0, 23), max_size=2),
    st.floats(1.0, 1.9),
)
def test_all_who_are_ill_are_named_and_nobody_else_where_most_are_well(
    count: int, slow: "set[int]", broken: "set[int]", noise: float
) -> None:
    hosts = tuple(f"n{number:02}" for number in range(count))
    slow_names = {f"n{number:02}" for number in slow if number < count}
    broken_names = {f"n{number:02}" for number in broken if number < count} - slow_names
    if 3 * len(slow_names | broken_names) > count - 1:
        return

    def times(one: str, other: str) -> "Optional[tuple[float, float]]":
        if broken_names & {one, other}:
            return None
        base = 1.0 if slow_names & {one, other} else 0.05
        return (0.001, base * (noise if one < "n05" else 1.0))

    measured = run(times, hosts)
    assert {host for host, _ in named(measured, hosts)} == slow_names | broken_names
    assert rounds(measured) <= 3
