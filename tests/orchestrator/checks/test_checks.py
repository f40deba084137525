"""What doctor judges of facts: who is named where hosts differ, and what is believed of what they tell."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.checks import alike, baseline, devices, machine
from orchestrator.checks.facts import HostFacts, read_closer, read_facts
from orchestrator.findings import Severity
from orchestrator.jobspec import JobSpec
from tests.orchestrator.probes.answers import processes, table

GB = 10**9
ROOM: "dict[str, Any]" = {
    "folder": "/srv", "writable": True, "total": 100 * GB, "free": 90 * GB, "inodes": 10**6, "free_inodes": 10**6,
}  # fmt: skip
UP = {"state": "up", "address": "10.0.0.1", "mtu": 1500}
SILENT = {"code": None, "missing": True, "text": ""}


def facts(**changed: Any) -> "dict[str, Any]":
    """Return what a healthy host without devices tells."""
    return {
        "hostname": "a", "user": "root", "python": "3.11.7", "kernel": "6.1", "arch": "aarch64", "address": "10.0.0.1",
        "cann": None, "port": 7000, "port_problem": None, "program": None, "program_there": True, "time": 1e9,
        "cpus": 192, "numa_nodes": 8, "load": 1.0, "packages": {"mindspore": "2.5.0"}, "files": {}, "davinci": [],
        "asked_ids": [], "memory": {"total": 800 * GB, "available": 700 * GB}, "disk": ROOM, "shm": ROOM,
        "limits": {"nofile": 65536, "nproc": None}, "npu": SILENT, "hccn": [], "leftovers": [],
        "interfaces": {"eth0": UP}, **changed,
    }  # fmt: skip


def host(name: str = "a", **changed: Any) -> HostFacts:
    return HostFacts(name, read_facts(json.dumps(facts(**changed)).encode()))


def says(*lines: str) -> "dict[str, Any]":
    return {"code": 0, "missing": False, "text": "\n".join(lines)}


def port(device: int, query: str, text: str) -> "dict[str, Any]":
    return {"device": device, "query": query, **says(text)}


def found(*hosts: HostFacts) -> "set[tuple[str, str]]":
    return {(fault.host, fault.code) for fault in alike.faults_among(hosts)}


def own(one: HostFacts) -> "dict[str, Severity]":
    return {fault.code: fault.severity for fault in (*machine.faults_of(one), *devices.faults_of(one))}


def test_healthy_hosts_have_no_faults() -> None:
    assert own(host()) == {}
    assert found(host("a"), host("b"), host("c")) == set()


@pytest.mark.parametrize(
    ("changed", "code", "severity"),
    [
        ({"memory": {"total": 64 * GB, "available": GB // 8}}, "memory-short", Severity.ERROR),
        ({"memory": {"total": 64 * GB, "available": GB}}, "memory-short", Severity.WARNING),
        ({"disk": {**ROOM, "free": GB // 2}}, "disk-full", Severity.ERROR),
        ({"disk": {**ROOM, "free": 2 * GB}}, "disk-full", Severity.WARNING),
        ({"limits": {"nofile": 1024, "nproc": None}}, "open-files-few", Severity.WARNING),
        ({"shm": None}, "shared-memory-small", Severity.ERROR),
        ({"interfaces": {"eth0": {**UP, "state": "down"}}}, "interface-down", Severity.ERROR),
        ({"davinci": [0]}, "npu-smi-missing", Severity.WARNING),
        ({"leftovers": [[7, 1, "r", 0, 9.0, "python", "gone"]]}, "leftovers", Severity.WARNING),
    ],
)  # fmt: skip
def test_each_shortage_is_a_warning_before_it_is_a_failure(
    changed: "dict[str, Any]", code: str, severity: Severity
) -> None:
    assert own(host(**changed)) == {code: severity}


def test_a_file_system_that_counts_no_inodes_is_not_short_of_them() -> None:
    assert own(host(disk={**ROOM, "inodes": 0, "free_inodes": 0})) == {}


def test_a_job_of_mindspore_needs_mindspore() -> None:
    job = JobSpec("j", module="m", framework="mindspore")
    assert [fault.code for fault in machine.faults_of(host(packages={}), job)] == ["mindspore-missing"]
    assert list(machine.faults_of(host(), job)) == []


def test_the_minority_is_at_fault_and_of_equals_whoever_differs_from_the_first() -> None:
    assert found(host("a"), host("b", arch="x86_64"), host("c")) == {("b", "arch-differs")}
    assert found(host("a"), host("b", python="3.9.1")) == {("b", "python-differs")}
    assert found(host("a", python="3.11.2"), host("b", python="3.11.7")) == set()


def test_memory_may_differ_a_little() -> None:
    def having(name: str, total: int) -> HostFacts:
        return host(name, memory={"total": total * GB, "available": 300 * GB})

    assert found(having("a", 800), having("b", 790)) == set()
    assert found(having("a", 800), having("b", 400)) == {("b", "memory-differs")}


def clock(name: str, low: float, high: float) -> HostFacts:
    return replace(host(name), clock_off_s=(low, high))


def test_a_clock_is_judged_by_the_others_and_only_beyond_doubt() -> None:
    ours_is_wrong = [clock(name, 99.9, 100.1) for name in "abc"]
    assert found(*ours_is_wrong) == set()
    assert found(*ours_is_wrong, clock("d", -0.1, 0.1)) == {("d", "clock-off")}
    assert found(clock("a", 0, 0), clock("b", 0, 0), clock("c", 1.5, 60)) == set()  # an answer that took its time
    assert found(clock("a", -400, -399)) == {("a", "clock-off")}


def test_one_address_twice_is_the_fault_of_who_was_not_given_it() -> None:
    answer = [port(0, "-ip", "ipaddr:10.1.0.1")]
    rightful = host("a", asked_ids=[0], hccn=answer, files={"/etc/hccn.conf": "address_0=10.1.0.1"})
    other = host("b", asked_ids=[0], hccn=answer, files={"/etc/hccn.conf": "address_0=10.1.0.2"})
    assert found(rightful, other) == {("b", "address-twice")}
    assert found(rightful, replace(rightful, name="c")) == {("a", "address-twice"), ("c", "address-twice")}


def reaching(name: str, **reached: "str | None") -> HostFacts:
    return replace(host(name), closer={"reached": reached})


def test_who_cannot_be_reached_from_anywhere_is_named_alone() -> None:
    lost = "timed out"
    assert found(
        reaching("a", b=None, c=lost, d=None), reaching("b", a=None, c=lost, d=None),
        reaching("c", a=None, b=None, d=None), reaching("d", a=None, b=None, c=lost),
    ) == {("c", "not-reached")}  # fmt: skip


def test_one_way_that_fails_is_told_of_where_it_begins() -> None:
    hosts = [reaching(one, **{other: None for other in "abcd" if other != one}) for one in "abcd"]
    hosts[0] = reaching("a", b="No route to host", c=None, d=None)
    hosts[1] = reaching("b", a="timed out", c=None, d=None)
    assert found(*hosts) == {("a", "not-reached")}


IN_USE = ("0 910B2 | OK | 91.5 41 0 / 0", "0 | 0000:81:00.0 | 12 0 / 0 60000/ 65536")


def test_a_device_that_others_use_is_told_with_who_they_are() -> None:
    using = host(npu=says(table([IN_USE]) + processes("0 0 | 4711 | python3 | 58000")))
    (fault,) = devices.faults_of(
        replace(using, closer={"owners": {"4711": {"user": "ann", "command": "x", "run": None}}})
    )
    assert (fault.code, fault.severity) == ("device-in-use", Severity.ERROR)
    assert "pid 4711 of ann: python3, 58000 MB" in fault.problem
    (unseen,) = devices.faults_of(host(npu=says(table([IN_USE]))))
    assert unseen.code == "memory-held"


def test_devices_that_a_hosts_file_names_are_missed_by_their_physical_ids() -> None:
    one = host(npu=says(table([("0 910B2 | OK | 91.5 41 0 / 0", "0 | NA | 12 0 / 0 3/ 65536")])))
    assert own(one) == {}
    (fault,) = devices.faults_of(replace(one, expected_ids=(0, 1, 2)))
    assert fault.code == "device-missing" and "device 1-2" in fault.problem


def test_a_baseline_tells_what_came_went_and_changed() -> None:
    before = baseline.lasting(host())
    assert baseline.changes(before, before) == []
    now = baseline.lasting(
        host(packages={}, kernel="6.2", files={"/usr/local/Ascend/driver/version.info": "Version=25.2.0"})
    )
    assert baseline.changes(before, now) == [
        "mindspore: mindspore 2.5.0 before, not there now",
        "kernel: 6.1 before, 6.2 now",
        "driver: not there before, 25.2.0 now",
    ]


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b"null", b"{}", b"[" * 100_000, b"\xff", json.dumps(facts(cpus="two")).encode(),
     json.dumps(facts(hccn=[{"device": -1, "query": "-ip", **SILENT}])).encode(),
     json.dumps(facts(memory={"total": 1})).encode(), json.dumps(facts(leftovers=[[1]])).encode()],
)  # fmt: skip
def test_what_is_no_answer_of_ours_is_refused(line: bytes) -> None:
    for read in (read_facts, read_closer):
        with pytest.raises(ValueError, match=r"."):
            read(line)
