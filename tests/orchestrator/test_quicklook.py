"""What a launch makes of a glance at its hosts: what ends it, what is told, and what is passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator import checkup, quicklook
from orchestrator.checks.facts import HostFacts, check_facts
from orchestrator.errors import HostError
from orchestrator.supervisor.tools import run_tool
from tests.orchestrator.checks.test_checks import GB, ROOM, facts, says
from tests.orchestrator.probes.answers import processes, table


def host(name: str = "a", used: "tuple[int, ...]" = (0, 1), **changed: Any) -> HostFacts:
    return HostFacts(name, check_facts(facts(**changed)), used_ids=used)


def with_devices(used: "tuple[int, ...]") -> HostFacts:
    """Return a host whose device 2 is ill and used by somebody, and whose device 3 is not there."""
    rows = [(f"{npu} 910B2 | {'Alarm' if npu == 2 else 'OK'} | 91.5 41 0 / 0", f"0 | NA | 0 0 / 0 {mb}/ 65536")
            for npu, mb in ((0, 3000), (1, 3000), (2, 60000))]  # fmt: skip
    text = table(rows) + processes("2 0 | 4711 | python3 | 58000")
    down = [{"device": 1, "query": "-link", **says("link status: DOWN")}]
    return host("a", used, davinci=[0, 1, 2, 3], asked_ids=[0, 1, 2, 3], npu=says(text), hccn=down)


def test_a_glance_at_this_machine_has_the_facts_that_doctor_judges(tmp_path: Path) -> None:
    glanced = quicklook.here("me", tmp_path / "not" / "yet", None)
    assert glanced.told["disk"]["folder"] == str(tmp_path)
    assert not glanced.has_devices


def test_a_host_without_devices_runs_no_program_for_a_glance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "npu-smi"
    tool.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    checkup.glance(tmp_path, devices=None, timeout_s=5.0)
    assert not (tmp_path / "asked").exists()
    run_tool("npu-smi", [], 5.0)
    assert (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    ("changed", "ends", "tells"),
    [
        ({}, set(), set()),
        ({"shm": None}, set(), {"shared-memory-small"}),
        ({"shm": {**ROOM, "free": GB // 2}}, set(), set()),
        ({"disk": {**ROOM, "free": GB // 2}}, set(), {"disk-full"}),
        ({"disk": {**ROOM, "free": 2 * GB}}, set(), set()),
        ({"disk": {**ROOM, "free_inodes": 3}}, {"inodes-few"}, set()),
        ({"limits": {"nofile": 1024, "nproc": None}}, set(), set()),
        ({"limits": {"nofile": 200, "nproc": None}}, set(), {"open-files-few"}),
        ({"memory": {"total": 64 * GB, "available": GB // 8}}, set(), {"memory-short"}),
    ],
)
def test_what_many_jobs_never_need_ends_no_launch(
    changed: "dict[str, Any]", ends: "set[str]", tells: "set[str]"
) -> None:
    ended, told = quicklook.judge([host(**changed)], ranks=2)
    assert ({one.code for one in ended}, {one.code for one in told}) == (ends, tells)


@pytest.mark.parametrize(
    ("used", "ranks", "ends"),
    [
        ((0,), 1, set()),
        ((0, 1), 2, {"link-down"}),
        ((1,), 1, set()),  # it speaks to nobody
        ((0, 2), 2, {"device-health", "device-in-use"}),
        ((0, 3), 2, {"device-missing"}),
    ],
)
def test_only_devices_that_the_run_uses_end_it(used: "tuple[int, ...]", ranks: int, ends: "set[str]") -> None:
    ended, _ = quicklook.judge([with_devices(used)], ranks=ranks)
    assert {one.code for one in ended} == ends


def test_hosts_with_other_software_end_a_launch_and_fewer_cpus_are_told() -> None:
    hosts = [host(name) for name in ("a", "b")]
    hosts += [host("c", arch="x86_64"), host("d", cpus=4)]
    ended, told = quicklook.judge(hosts, ranks=8)
    assert [(one.host, one.code) for one in ended] == [("c", "arch-differs")]
    assert [(one.host, one.code) for one in told] == [("d", "cpus-differs")]


def test_a_launch_that_would_fail_is_ended_with_a_line_for_each_reason() -> None:
    few = {**ROOM, "free_inodes": 3}
    hosts = [host(f"node{number}", disk=few) for number in range(1, 6)] + [host("node6", arch="x86_64")]
    with pytest.raises(HostError) as caught:
        quicklook.warnings_of(hosts, ranks=6)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("node1, node2, node3 and 2 more: 3 more files fit on the disk of /srv")
    assert lines[1].startswith("node6: the architecture is x86_64")
    assert lines[2] == "nothing was started; --skip-doctor launches all the same"
    assert len(lines) == 3


def test_a_run_under_way_is_told_of_what_would_have_ended_it() -> None:
    (line,) = quicklook.warnings_of([host(disk={**ROOM, "free_inodes": 3})], ranks=1, under_way=True)
    assert line.startswith("warning: a: 3 more files fit")


def test_facts_that_no_host_of_ours_tells_are_refused_in_one_line() -> None:
    for told in (None, [], {"hostname": 3}, facts(cpus="many"), "x" * 10**6):
        with pytest.raises(HostError, match=r"^b: does not answer as ours") as caught:
            quicklook.of_told("b", told, (0.0, 0.0), [0])
        assert len(str(caught.value)) < 300
