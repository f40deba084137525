"""No host, whoever holds it, breaks those who look at a run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cli import output
from orchestrator.hearsay import may_tell
from orchestrator.plan import RunPlan
from orchestrator.runstate import _FOLDS, fold, initial_state
from orchestrator.store import Run
from orchestrator.supervisor import events
from orchestrator.supervisor.events import Event
from orchestrator.supervisor.rundir import RunDir


def event_of(**change: Any) -> Event:
    fields = {"seq": 1, "at": 1.0, "mono": 1.0, "kind": "process_exited", "host": "node2", "rank": 3}
    return Event(**{**fields, **change})


@pytest.mark.parametrize(
    ("change", "heard"),
    [
        ({}, True),
        ({"rank": None}, True),
        ({"rank": None, "kind": "checkpoint"}, False),
        ({"rank": 0}, False),  # another host's
        ({"rank": True}, False),
        ({"rank": [3]}, False),
        ({"rank": "3"}, False),
        ({"host": "node1"}, False),
        ({"kind": "host_silent"}, False),
        ({"kind": "host_finished"}, False),
        ({"at": float("inf")}, False),
        ({"mono": float("nan")}, False),
        ({"seq": 1 << 64}, False),
        ({"kind": "of a newer supervisor", "data": {"news": [{}]}}, True),
        ({"data": {"code": "0"}}, False),
        ({"data": {"code": None, "signal": 9, "tail": ["a"]}}, True),
        ({"data": {"tail": "a"}}, False),
        ({"data": {"pids": [1, None]}}, False),
        ({"kind": "progress", "rank": None, "data": {"ranks": {"3": {"step": 1, "loss": float("nan")}}}}, True),
        ({"kind": "progress", "rank": None, "data": {"ranks": {"0": {"step": 1}}}}, False),
        ({"kind": "progress", "rank": None, "data": {"ranks": {"3": {"cpu_percent": "much"}}}}, False),
        ({"kind": "progress", "rank": None, "data": {"ranks": [3]}}, False),
    ],
)
def test_a_host_tells_of_itself_and_its_own_ranks_only(change: "dict[str, Any]", heard: bool) -> None:
    assert may_tell(event_of(**change), "node2", frozenset({3, 4})) is heard


scalars = st.none() | st.booleans() | st.integers(-1, 2**70) | st.floats() | st.sampled_from(["", "1", "a\n\x1b[2J"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("0"), inner), max_leaves=4
)
figures = st.dictionaries(
    st.sampled_from(["epoch", "epochs", "step", "steps", "loss", "step_s", "images_per_s", "cpu_percent", "rss_bytes"]),
    scalars,
    max_size=3,
)
fields = [
    "pid", "code", "signal", "error", "tail", "errors", "cpu_s", "at", "mono", "peak_rss_bytes", "grace_s",
    "pids", "ranks", "phase", "path", "checkpoint", "by", "cause", "epoch", "step", "loss", "reason",
    "top_1_accuracy", "quiet_s", "limit_s", "factor", "step_s", "median_s", "free_bytes", "total_bytes",
    "frames", "file", "evidence", "what", "device", "severity", "level", "before", "now", "codes",
]  # fmt: skip
told = st.builds(
    event_of,
    seq=st.integers(4, 9),
    kind=st.sampled_from(sorted(_FOLDS)),
    host=st.just("node1"),
    rank=st.sampled_from([None, 0, 1, 2]),
    data=st.dictionaries(st.sampled_from(fields), values, max_size=3)
    | st.fixed_dictionaries({"ranks": st.dictionaries(st.sampled_from("01"), figures)}),
)


@settings(max_examples=300)
@given(st.lists(told, max_size=3))
def test_whoever_looks_at_a_run_gets_by_with_what_a_host_may_tell(
    make_run_plan: "Callable[..., RunPlan]", some: "list[Event]"
) -> None:
    plan = make_run_plan(ranks=2)
    begun = [
        event_of(seq=number + 1, kind=kind, host="node1", rank=rank, at=time.time())
        for number, (kind, rank) in enumerate([(events.RUN_STARTED, None), (events.PROCESS_STARTED, 0),
                                               (events.PROCESS_STARTED, 1)])
    ]  # fmt: skip
    lines = [event.to_line() for event in some if may_tell(event, "node1", frozenset({0, 1}))]
    read = [event for line in lines if (event := Event.from_line(line)) is not None]
    run, state = Run(plan, RunDir(Path("/runs/r"))), initial_state(plan)
    state = fold(state, [*begun, *sorted(read, key=lambda event: event.seq)])
    output.show_run(run, state)
    output.show_runs([(run, state, None)])
    assert json.dumps(output.run_as_json(run, state))
