"""Who pings whom between devices, and which device is named for the pings that get no answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.checks import pings
from orchestrator.checks.facts import HostFacts
from tests.orchestrator.checks.test_checks import host, port, says

IDS = range(2)


def with_devices(name: str, *, down: "tuple[int, ...]" = (), ids: "range" = IDS) -> HostFacts:
    answers = [port(one, "-ip", f"ipaddr:10.{one}.0.{ord(name)}") for one in ids]
    answers += [port(one, "-link", "link status: DOWN") for one in down]
    return host(name, asked_ids=list(ids), hccn=answers)


def answered(hosts: "list[HostFacts]", *lost: "tuple[str, int]", received: int = 0) -> "list[HostFacts]":
    """Let the hosts ping one another as planned; of what begins or ends at *lost*, *received* of three come back."""
    planned = pings.plan(hosts)
    told = []
    for one in hosts:
        answers = []
        for device, peer, peer_device, address in planned.get(one.name, ()):
            back = received if {(one.name, device), (peer, peer_device)} & set(lost) else 3
            words = f"3 packets transmitted, {back} received, {100 * (3 - back) / 3:.2f}% packet loss"
            text = f"device {device} PING {address}\n{words}\n"
            answers.append({"device": device, "peer": peer, "peer_device": peer_device, **says(text)})
        told.append(replace(one, closer={"pings": answers}))
    return told


def found(hosts: "list[HostFacts]") -> "list[tuple[str, str, str]]":
    return [(one.host, one.code, one.problem.partition(":")[0]) for one in pings.faults_among(hosts)]


def test_each_device_pings_its_like_on_the_next_host() -> None:
    planned = pings.plan([with_devices("a"), with_devices("b", ids=range(1)), host("c"), with_devices("d")])
    assert planned["a"] == [[0, "b", 0, "10.0.0.98"], [1, "b", 0, "10.0.0.98"]]
    assert planned["b"] == [[0, "d", 0, "10.0.0.100"]]
    assert [target for _, target, _, _ in planned["d"]] == ["a", "a"]
    assert "c" not in planned


@pytest.mark.parametrize("hosts", [[], ["a"]])
def test_a_host_alone_pings_nobody(hosts: "list[str]") -> None:
    assert not any(pings.plan([with_devices(name) for name in hosts]).values())


def test_devices_that_all_reach_have_no_faults() -> None:
    assert found(answered([with_devices(name) for name in "abcd"])) == []


def test_a_device_that_neither_reaches_nor_is_reached_is_named_alone() -> None:
    hosts = [with_devices(name) for name in "abcd"]
    assert found(answered(hosts, ("c", 1))) == [("c", "device-not-reached", "device 1")]
    assert found(answered(hosts, ("c", 0), ("c", 1))) == [("c", "device-not-reached", "device 0-1")]


def test_of_two_hosts_the_way_between_them_is_told_once() -> None:
    hosts = [with_devices(name) for name in "ab"]
    assert found(answered(hosts, ("b", 1))) == [("a", "device-not-reached", "device 1")]


def test_one_way_that_fails_is_told_where_it_begins() -> None:
    hosts = answered([with_devices(name) for name in "abc"], ("b", 1))
    hosts[1] = answered([with_devices(name) for name in "abc"])[1]  # and b reaches c
    assert found(hosts) == [("a", "device-not-reached", "device 1")]


def test_a_link_that_is_down_is_not_told_of_twice() -> None:
    hosts = [with_devices("a"), with_devices("b", down=(1,)), with_devices("c")]
    assert found(answered(hosts, ("b", 1))) == []


def test_packets_that_get_lost_are_a_warning() -> None:
    hosts = [with_devices(name) for name in "ab"]
    assert {one for one in found(answered(hosts, ("b", 1), received=2))} == {
        ("a", "device-pings-lost", "device 1"), ("b", "device-pings-lost", "device 1"),
    }  # fmt: skip


def test_a_tool_that_knows_no_pings_says_nothing_of_devices() -> None:
    hosts = answered([with_devices(name) for name in "abc"])
    unread = [{**one, "text": "Cmd execute failed!"} for one in hosts[0].closer["pings"]]
    assert found([replace(hosts[0], closer={"pings": unread}), *hosts[1:]]) == []
