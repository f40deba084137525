"""What a far launch makes of what hosts say: pure, so no host is needed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import farside
from orchestrator.attempts import Looked, _refuse_unlike, host_of
from orchestrator.errors import HostError
from orchestrator.inventory import Device, Host, HostEntry
from orchestrator.jobspec import JobSpec
from orchestrator.plan import Ports, Site, make_plan
from orchestrator.supervisor.rundir import RunDir

FACTS = farside.look({"folder": "/nowhere/r", "modules": ["pytest"], "ports": 2, "program": "sh"})
JOB = JobSpec.for_command(["true"], "/")


def looked(name: str, clock_off_s: float = 0.0, **facts: Any) -> Looked:
    told = {**FACTS, "place": [name], "folder_problem": None, **facts}
    return Looked(HostEntry(name, name), "/archive", None, None, told, (clock_off_s, clock_off_s))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (looked("b", clock_off_s=30.5), "b: its clock is 30 s off"),
        (looked("b", place=["a"]), "b: is the same machine as a"),
        (looked("b", versions={"pytest": None}), "b: has pytest (none), a has "),
        (looked("b", versions={"pytest": "0.1"}), "b: has pytest 0.1, a has "),
        (looked("b", folder_problem="/x exists already"), "b: /x exists already"),
        (looked("b", dataset_problem="/d: missing"), "b: /d: missing"),
        (looked("b", program_problem="there is no program x"), "b: there is no program x"),
    ],
)
def test_hosts_that_do_not_go_together_are_refused(other: Looked, said: str) -> None:
    with pytest.raises(HostError) as caught:
        _refuse_unlike([looked("a"), other], JOB)
    assert str(caught.value).startswith(said)


def test_hosts_alike_with_clocks_30_s_apart_are_taken() -> None:
    _refuse_unlike([looked("a"), looked("b", clock_off_s=30.0)], JOB)


def test_devices_that_the_hosts_file_names_must_be_there_on_ascend() -> None:
    entry = HostEntry("a", "a", devices=(Device(3), Device(9)))
    facts = {**FACTS, "ascend": list(range(8))}
    with pytest.raises(HostError, match="a: has no device 9, which the hosts file names; it has 0-7"):
        host_of(Looked(entry, "/archive", None, None, facts, (0.0, 0.0)), "auto", alone=True)  # type: ignore[arg-type]


def test_facts_come_through_json_as_they_are() -> None:
    assert farside.read_facts(json.dumps(FACTS).encode()) == json.loads(json.dumps(FACTS))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(FACTS)), anything, max_size=3))
def test_facts_of_a_hostile_host_are_refused_or_do_no_harm(changes: "dict[str, Any]") -> None:
    line = json.dumps({**FACTS, "folder_problem": None, **changes}).encode()
    try:
        facts = farside.read_facts(line)
    except ValueError as exc:
        assert len(str(exc)) < 200
        return
    one = Looked(HostEntry("a", "a"), "/archive", None, None, facts, (0.0, 0.0))  # type: ignore[arg-type]
    try:
        _refuse_unlike([one], JOB)
        host_of(one, "auto", alone=False)
    except HostError:
        pass
    assert os.path.isabs(facts["folder"])


@pytest.mark.parametrize("line", [b"", b"null", b"[1]", b"{}", b"\xff", b"[" * 100_000, b'{"place": 1}'])
def test_an_answer_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        farside.read_facts(line)


@pytest.mark.parametrize(
    ("of_host", "of_job", "path"),
    [
        ({}, {}, "/code"),
        ({"PYTHONPATH": "/cann"}, {}, "/code:/cann"),
        ({"PYTHONPATH": "/cann"}, {"PYTHONPATH": "/mine"}, "/code:/mine"),
    ],
)
def test_the_code_that_came_along_goes_before_what_a_host_imports_from(
    of_host: "dict[str, str]", of_job: "dict[str, str]", path: str
) -> None:
    spec = JobSpec(name="j", module="sknet.train", environment=of_job)
    host = Host("a", "10.0.0.1", "cpu", (Device(0),), (0, 1))
    site = Site(host, host.devices, RunDir(Path("/r")), "python3", {**of_host, "OMP_NUM_THREADS": "7"}, code="/code")
    facts = {"run_id": "r-1", "name": "r", "created_at": 0.0, "launched_from": "/", "command_line": ()}
    plan = make_plan(spec, [site], ports=Ports(29500, 29501), **facts)  # type: ignore[arg-type]
    variables = plan.ranks[0].process.environment
    assert variables["PYTHONPATH"] == path
    assert "OMP_NUM_THREADS" not in variables, "what `setup:` sets by hand stays as it is"
