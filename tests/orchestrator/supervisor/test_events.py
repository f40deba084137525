from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.supervisor.events import Event

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=5,
)


@given(
    st.integers(1, 10**9),
    st.text(max_size=10),
    st.one_of(st.none(), st.integers(0, 9999)),
    st.dictionaries(st.text(max_size=5), json_values, max_size=4),
)
def test_an_event_is_one_line_and_is_read_back_equal(seq: int, kind: str, rank: Any, data: "dict[str, Any]") -> None:
    event = Event(seq, 1700000000.125, 12.5, kind, "node1", rank, data)
    line = event.to_line()
    assert line.endswith("\n") and line.encode().count(b"\n") == 1
    assert Event.from_line(line) == Event.from_line(line.encode()) == event


def test_times_are_kept_to_the_millisecond() -> None:
    event = Event.from_line(Event(1, 1700000000.12345, 5.98765, "k", "h").to_line())
    assert event is not None and (event.at, event.mono) == (1700000000.123, 5.988)


def test_fields_of_a_newer_supervisor_are_passed_over() -> None:
    line = '{"seq":1,"at":2,"mono":3,"kind":"k","host":"h","severity":5}'
    assert Event.from_line(line) == Event(1, 2.0, 3.0, "k", "h")


@given(st.binary(max_size=200))
@example(b"")
@example(b"null")
@example(b"[]")
@example(b"5")
@example(b'{"seq":1}')
@example(b'{"seq":"x","at":1,"mono":1,"kind":"k","host":"h"}')
@example(b'{"seq":Infinity,"at":1,"mono":1,"kind":"k","host":"h"}')
@example(b'{"seq":NaN,"at":1,"mono":1,"kind":"k","host":"h"}')
@example(b'{"seq":1,"at":1,"mono":1,"kind":"k","host":"h"')
@example(b"\xff\xfe")
@example(b"[" * 100_000)
def test_a_line_that_is_no_event_is_none(line: bytes) -> None:
    assert Event.from_line(line) is None


@pytest.mark.parametrize("data", [None, [], 5, "x"])
def test_an_event_whose_data_are_no_mapping_cannot_upset_those_who_fold_it(data: Any) -> None:
    line = json.dumps({"seq": 1, "at": 1, "mono": 1, "kind": "process_started", "host": "h", "rank": 0, "data": data})
    event = Event.from_line(line)
    assert event is None or isinstance(event.data, dict)
