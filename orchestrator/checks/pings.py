"""Whether devices reach one another over their own network: who pings whom, and what is said of the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.checks.facts import Fault, HostFacts
from orchestrator.findings import Severity
from orchestrator.inventory import spell_ids

End = tuple[str, int]  # a host and one of its devices


def plan(hosts: "Sequence[HostFacts]") -> "dict[str, list[list[Any]]]":
    """Return, by host, [device, host, device, address] of the pings that it is to send.

    Each device pings its like on the next host, so each is tried both ways, by two others where there are three hosts.
    """
    having = [host for host in hosts if _addresses(host)]
    planned: "dict[str, list[list[Any]]]" = {}
    for host, other in zip(having, having[1:] + having[:1]):
        there = _addresses(other)
        pairs = ((mine, mine if mine in there else min(there)) for mine in sorted(_addresses(host)))
        planned[host.name] = [[mine, other.name, its, there[its]] for mine, its in pairs] if host is not other else []
    return planned


def faults_among(hosts: "Sequence[HostFacts]") -> "Iterator[Fault]":
    """Yield which devices do not reach others, or lose packets on the way."""
    lossy: "dict[tuple[str, str], list[int]]" = {}
    failed: "set[tuple[End, End]]" = set()
    for host in hosts:
        for one in host.closer.get("pings", ()):
            received = _received(one)
            ends = (host.name, one["device"]), (one["peer"], one["peer_device"])
            if received == 0:
                failed.add(ends)
            elif received is not None and received < 1:
                lossy.setdefault((host.name, one["peer"]), []).append(one["device"])
    held = Counter(address for host in hosts for address in _addresses(host).values())
    told = {
        (host.name, device)
        for host in hosts
        for device, port in host.ports.items()
        if port.link == "DOWN" or held[port.address or ""] > 1
    }
    failed = {ends for ends in failed if not told.intersection(ends)}
    if len({name for ends in failed for name, _ in ends}) > 2:
        lone = {source for source, _ in failed} & {target for _, target in failed}
        yield from _lone(lone)
        failed = {ends for ends in failed if not lone.intersection(ends)}
    ways: "dict[tuple[str, str], list[int]]" = {}
    for source, target in sorted(failed):
        ways.setdefault((source[0], target[0]), []).append(source[1])
    for (name, peer), ids in ways.items():
        if name < peer or (peer, name) not in ways:
            yield _fault(name, "device-not-reached", True, ids, f"no answer to pings to the devices of {peer}")
    for (name, peer), ids in lossy.items():
        yield _fault(name, "device-pings-lost", False, ids, f"pings to the devices of {peer} get lost")


def _lone(lone: "set[End]") -> "Iterator[Fault]":
    for name in sorted({name for name, _ in lone}):
        ids = [device for other, device in lone if other == name]
        yield _fault(name, "device-not-reached", True, ids, "the devices of other hosts cannot be pinged, nor ping it")


def _fault(host: str, code: str, bad: bool, ids: "Sequence[int]", problem: str) -> Fault:
    return Fault(
        host, "links", code, Severity.ERROR if bad else Severity.WARNING, f"device {spell_ids(sorted(ids))}: {problem}",
        "see to the switch port, VLAN, netmask and gateway of these devices",
        tuple(f"hccn_tool -i {device} {query} -g" for device in sorted(ids)[:1] for query in ("-ip", "-gateway")),
    )  # fmt: skip


def _addresses(host: HostFacts) -> "dict[int, str]":
    return {device: port.address for device, port in host.ports.items() if port.address}


def _received(answer: "Mapping[str, Any]") -> "float | None":
    """Return the share of packets that came back; None where the tool does not say."""
    from orchestrator.probes.network import parse_ports

    pings = [ping for port in parse_ports(answer["text"]).ports for ping in port.pings]
    return pings[-1].received / pings[-1].sent if pings and pings[-1].sent else None
