from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.supervisor.hostplan import HostPlan, ProcessPlan

words = st.text(max_size=8)
processes = st.builds(
    ProcessPlan,
    rank=st.one_of(st.none(), st.integers(0, 100)),
    argv=st.lists(words, min_size=1, max_size=4).map(tuple),
    environment=st.dictionaries(words, words, max_size=3),
    folder=words,
    log=words,
    working_directory=st.one_of(st.none(), words),
    cpus=st.one_of(st.none(), st.lists(st.integers(0, 99), min_size=1, max_size=4).map(tuple)),
)
plans = st.builds(
    HostPlan,
    run_id=words,
    host=words,
    processes=st.lists(processes, max_size=4).map(tuple),
    grace_s=st.floats(0, 86_400),
    log_patterns=st.lists(words, max_size=2).map(tuple),
    scheduler_on_demand=st.one_of(st.none(), st.tuples(words, st.integers(1, 65_535))),
)


@given(plans)
def test_a_host_plan_is_the_same_after_a_journey_through_json(plan: HostPlan) -> None:
    assert HostPlan.from_json(plan.to_json()) == plan


@given(plans)
def test_every_process_is_a_rank_or_a_scheduler(plan: HostPlan) -> None:
    schedulers = [process for process in plan.processes if process.rank is None]
    assert plan.scheduler == (schedulers[0] if schedulers else None)
    assert len(plan.ranks) + len(schedulers) == len(plan.processes)


def test_processes_are_named_by_their_rank() -> None:
    fields: "dict[str, Any]" = {"argv": ("x",), "environment": {}, "folder": "f", "log": "l"}
    assert [ProcessPlan(rank, **fields).name for rank in (0, 12, None)] == ["rank-0", "rank-12", "scheduler"]


def test_fields_of_a_newer_ascendrun_are_passed_over() -> None:
    plan = HostPlan("r", "h", (ProcessPlan(0, ("x",), {}, "f", "l"),), 1.0)
    stored = json.loads(plan.to_json())
    stored["stall_s"] = stored["processes"][0]["nice"] = 5
    assert HostPlan.from_json(json.dumps(stored)) == plan


@pytest.mark.parametrize("text", ["", "null", "[]", "5", "{}", '{"processes": 5}', '{"processes": [{}]}'])
def test_what_is_no_host_plan_is_refused_with_an_error_that_is_announced(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        HostPlan.from_json(text)


def test_a_process_stored_before_variables_could_be_unset_is_read() -> None:
    stored = asdict(ProcessPlan(0, ("true",), {}, "train", "train.log"))
    del stored["unset"]
    assert ProcessPlan.from_fields(stored) == ProcessPlan(0, ("true",), {}, "train", "train.log")
