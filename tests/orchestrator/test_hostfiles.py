from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.hostfiles import MOST_HOSTS, Target, expand, parse_lines, parse_target


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("node1", Target("node1")),
        ("me@node1", Target("node1", "me")),
        ("me@node1:2222", Target("node1", "me", 2222)),
        ("node1:22", Target("node1", None, 22)),
        ("me@corp@node1", Target("node1", "me@corp")),
        ("2001:db8::1", Target("2001:db8::1")),
        ("[2001:db8::1]:2222", Target("2001:db8::1", None, 2222)),
        ("me@[fe80::1%eth0]", Target("fe80::1%eth0", "me")),
    ],
)
def test_a_target_is_taken_apart(text: str, wanted: Target) -> None:
    assert parse_target(text) == wanted


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("@node1", "user"),
        ("", "address is missing"),
        ("me@", "address is missing"),
        (":22", "address is missing"),
        ("node1:", "no port"),
        ("node1:ssh", "no port"),
        ("node1:65536", "no port"),
        ("node1:0", "no port"),
        ("node1:٣٣", "no port"),
    ],
)
def test_a_target_that_cannot_be_dialled_is_refused(text: str, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        parse_target(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node", ["node"]),
        ("node[1-3]", ["node1", "node2", "node3"]),
        ("node[08-11]", ["node08", "node09", "node10", "node11"]),
        ("node[1,4-5,02]", ["node1", "node4", "node5", "node02"]),
        ("r[1-2]-n[1-2]", ["r1-n1", "r1-n2", "r2-n1", "r2-n2"]),
        ("n[1-2].example.org", ["n1.example.org", "n2.example.org"]),
        ("[fe80::1]:22", ["[fe80::1]:22"]),
    ],
)
def test_slurm_node_lists_are_written_out(text: str, names: "list[str]") -> None:
    assert list(expand(text)) == names


@given(st.integers(0, 3000), st.integers(0, 60), st.integers(1, 6))
def test_a_range_has_every_number_once_and_keeps_its_zeros(first: int, more: int, width: int) -> None:
    names = list(expand(f"n[{first:0{width}}-{first + more:0{width}}]"))
    assert [int(name[1:]) for name in names] == list(range(first, first + more + 1))
    assert all(len(name) > width for name in names)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a\nnode[3-1]", "f:2: .*backwards"),
        ("node[1-]", "neither a number nor a range"),
        ("node[]", "neither"),
        ("node[a]", "neither"),
        ("node[1-99999999]", "more than"),
        ("a[1-60000]b[1-60000]", "more than"),
        ("[1]" * 500, "brackets"),
        ("node[1", "not closed"),
        ("node]1", "bracket too many"),
        ("node[[1]]", "bracket too many"),
        ("a,,b", "nothing between"),
        ("node1:8", "node1 slots=8"),
        ("node1 8", "slots=8"),
        ("node1 slot=8", "did you mean 'slots'"),
        ("node1 slots=0", "from 1 to 1024"),
        ("node1 slots=-8", "from 1 to 1024"),
        ("node1 slots=99999", "from 1 to 1024"),
        ("x" * 100_000, "longer"),
    ],
)
def test_a_line_that_is_no_host_is_refused_in_one_short_line(text: str, told: str) -> None:
    with pytest.raises(SpecError, match=told) as caught:
        list(parse_lines(text, "f"))
    assert str(caught.value).startswith("f:")
    assert "\n" not in str(caught.value)


def test_comments_blank_lines_and_slots_are_understood() -> None:
    text = "# hosts of rack 1\n\nnode1 slots=8 # the first\r\nnode2 slots=4 max_slots=8\nme@node[3-4],node9\n"
    found = [(line.target.address, line.target.user, line.slots, line.number) for line in parse_lines(text, "f")]
    assert found == [
        ("node1", None, 8, 3),
        ("node2", None, 4, 4),
        ("node3", "me", None, 5),
        ("node4", "me", None, 5),
        ("node9", None, None, 5),
    ]


def test_as_many_hosts_as_there_may_be_are_read() -> None:
    assert len(list(parse_lines(f"n[1-{MOST_HOSTS}]", "f"))) == MOST_HOSTS


@given(st.text(max_size=60))
def test_any_text_ends_in_hosts_or_a_spec_error(text: str) -> None:
    try:
        list(parse_lines(text, "f"))
    except SpecError as exc:
        assert str(exc).startswith("f:")
