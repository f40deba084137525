"""What must be the same everywhere, or different everywhere: what most hosts say counts, the others are at fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Optional

from orchestrator.checks.facts import Fault, HostFacts
from orchestrator.findings import Severity
from orchestrator.probes import npu, versions

_CLOCK_WARNING_S, _CLOCK_FAULT_S = 2.0, 60.0
_LIKE = 0.1  # a kernel takes its share of memory, more or less


def faults_among(hosts: "Sequence[HostFacts]") -> "Iterator[Fault]":
    """Yield what is wrong of hosts beside one another."""
    with_devices = any(host.has_devices for host in hosts)
    for key, (check, what, bad, remedy) in _SAME.items():
        if with_devices or key not in _OF_DEVICES:
            yield from _unlike(hosts, key, check, what, bad, remedy)
    yield from _clocks(hosts)
    if with_devices:
        yield from _tls(hosts)
        yield from _addresses(hosts)
    yield from _unreached(hosts)


def _file(path: str) -> "Callable[[HostFacts], Optional[str]]":
    return lambda host: versions.parse_version(host.told["files"].get(path, ""))


def _mindspore(host: HostFacts) -> Optional[str]:
    found = {name: version for name, version in host.told["packages"].items() if name.startswith("mindspore")}
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items())) or None


def _minor(host: HostFacts) -> str:
    return ".".join(host.told["python"].split(".")[:2])


def _devices(host: HostFacts) -> Optional[int]:
    if host.expected_ids is not None or not host.info.devices:
        return None  # the hosts file knows better; a table that cannot be read is told of elsewhere
    return len(host.info.devices)


def _of_interface(key: str) -> "Callable[[HostFacts], Optional[Hashable]]":
    def value(host: HostFacts) -> Optional[Hashable]:
        found = host.interface()
        return None if found is None else (found[0] if key == "name" else found[1][key])

    return value


_INSTALL = "install on all hosts what most have"
VALUES: "Mapping[str, Callable[[HostFacts], Any]]" = {
    "python": _minor,
    "mindspore": _mindspore,
    "cann": lambda host: versions.parse_version(host.told["cann"] or ""),
    "driver": lambda host: _file(versions.DRIVER)(host) or host.info.driver_version,
    "firmware": _file(versions.FIRMWARE),
    "arch": lambda host: host.told["arch"],
    "cpus": lambda host: host.told["cpus"],
    "memory": lambda host: host.told["memory"]["total"],
    "product": lambda host: npu.parse_product(host.told["npu"]["text"]),
    "devices": _devices,
    "interface": _of_interface("name"),
    "mtu": _of_interface("mtu"),
}
# Value -> the check it belongs to, what it is called, whether a job fails for it, and what helps.
_SAME = {
    "python": ("python", "Python", False, "name Pythons of one version as `python:` in the hosts file"),
    "mindspore": ("software", "MindSpore", True, _INSTALL),
    "cann": ("software", "CANN", True, _INSTALL),
    "driver": ("software", "the driver", True, _INSTALL),
    "firmware": ("software", "the firmware", False, _INSTALL),
    "arch": ("cpu", "the architecture", True, "use hosts of one kind in a run"),
    "cpus": ("cpu", "the number of CPUs", False, "see whether a container or a cpuset takes some away"),
    "memory": ("memory", "the memory", False, "see whether a module of memory failed, or a container has a limit"),
    "product": ("devices", "the product", True, "use devices of one kind in a run"),
    "devices": ("devices", "the number of devices", True, "see whether a card has dropped: lspci -d 19e5:"),
    "interface": ("network", "the interface", False,
                  "where its name is set for all, as in GLOO_SOCKET_IFNAME, set it for each host"),
    "mtu": ("network", "the MTU of the interface", False, "set one MTU on all hosts and switches between them"),
}  # fmt: skip
_OF_DEVICES = {"driver", "firmware", "product", "devices"}
# Who has none of these is told of elsewhere.
_SILENT_WITHOUT = {"devices", "product", "driver", "firmware", "interface", "mtu"}


def _unlike(hosts: "Sequence[HostFacts]", key: str, check: str, what: str, bad: bool, remedy: str) -> "Iterator[Fault]":
    told = {host.name: VALUES[key](host) for host in hosts}
    counted = Counter(value for value in told.values() if value is not None)
    if not counted:
        return
    usual, _ = counted.most_common(1)[0]  # of equally many, what the first host has
    for host in hosts:
        value = told[host.name]
        if value == usual or (
            value is None and (key in _SILENT_WITHOUT or not (host.has_devices or key == "mindspore"))
        ):
            continue
        if key == "memory" and abs(value - usual) <= _LIKE * usual:
            continue
        shown, others = (_spell(key, one) for one in (value, usual))
        yield Fault(
            host.name, check, f"{key}-differs", Severity.ERROR if bad else Severity.WARNING,
            f"{what} is {shown}, and {others} on {counted[usual]} of the other hosts", remedy,
        )  # fmt: skip


def _spell(key: str, value: Any) -> str:
    if value is None:
        return "missing"
    return f"{value / 1e9:.0f} GB" if key == "memory" else str(value)


def _clocks(hosts: "Sequence[HostFacts]") -> "Iterator[Fault]":
    middles = [sum(host.clock_off_s) / 2 for host in hosts]
    right = sorted(middles)[len(hosts) // 2] if len(hosts) > 2 else 0.0  # of one or two hosts, our own clock decides
    for host in hosts:
        low, high = (off - right for off in host.clock_off_s)
        off = max(0.0, low, -high)  # at least
        if off > _CLOCK_WARNING_S:
            way = "ahead of" if low > 0 else "behind"
            whose = "most hosts" if len(hosts) > 2 else "the clock here"
            yield Fault(
                host.name, "clock", "clock-off", Severity.ERROR if off > _CLOCK_FAULT_S else Severity.WARNING,
                f"its clock is {off:.0f} s {way} {whose}",
                "let chrony or ntpd set it; logs of several hosts are read by their times",
                ("chronyc -a makestep || timedatectl set-ntp true",),
            )  # fmt: skip


def _tls(hosts: "Sequence[HostFacts]") -> "Iterator[Fault]":
    told = {(host.name, device): port.tls for host in hosts for device, port in host.ports.items()}
    counted = Counter(on for on in told.values() if on is not None)
    if len(counted) < 2:
        return
    usual, _ = counted.most_common(1)[0]
    for host in hosts:
        wrong = [device for device, port in sorted(host.ports.items()) if port.tls is (not usual)]
        if wrong:
            yield Fault(
                host.name, "links", "tls-differs", Severity.ERROR,
                f"TLS is {'off' if usual else 'on'} for device {', '.join(map(str, wrong))}, and "
                f"{'on' if usual else 'off'} for {counted[usual]} other devices: HCCL refuses to join them (EI0016)",
                "set it alike on all devices",
                tuple(f"hccn_tool -i {device} -tls -s enable {int(usual)}" for device in wrong),
            )  # fmt: skip


def _addresses(hosts: "Sequence[HostFacts]") -> "Iterator[Fault]":
    owners: "dict[str, list[tuple[HostFacts, int]]]" = {}
    for host in hosts:
        for device, port in sorted(host.ports.items()):
            if port.address:
                owners.setdefault(port.address, []).append((host, device))
    for address, having in owners.items():
        if len(having) < 2:
            continue
        rightful = [(host, one) for host, one in having if (to := host.configured.get(one)) and to.address == address]
        for host, device in having if len(rightful) != 1 else [one for one in having if one not in rightful]:
            others = ", ".join(
                f"device {one} of {other.name}" for other, one in having if (other, one) != (host, device)
            )
            yield Fault(
                host.name, "links", "address-twice", Severity.ERROR,
                f"device {device}: its address {address} is that of {others} too",
                "give each device an address of its own, in /etc/hccn.conf too",
                (f"hccn_tool -i {device} -cfg recovery",),
            )  # fmt: skip


def _unreached(hosts: "Sequence[HostFacts]") -> "Iterator[Fault]":
    """Yield who cannot be dialled from others, or cannot dial; where all ways of a host fail, it alone is named."""
    failed = {
        (host.name, peer): why
        for host in hosts
        for peer, why in host.closer.get("reached", {}).items()
        if why is not None
    }
    for way in [
        way
        for way, why in failed.items()
        if "timed out" in why and "timed out" not in failed.get(way[::-1], "timed out")
    ]:
        del failed[way]  # no answer comes back the way that fails at once
    count = len(hosts)
    port = {host.name: host.told["port"] for host in hosts}
    while failed:
        ways = Counter(name for pair in failed for name in pair)
        worst, met = max(ways.items(), key=lambda one: one[1])
        into = [source for source, peer in failed if peer == worst]
        out = [peer for source, peer in failed if source == worst]
        if count < 3 or met < count - 1:
            for (source, peer), why in failed.items():
                yield _not_reached(source, f"{peer} cannot be reached on port {port.get(peer, 0):.0f}: {why}")
            return
        why = next(why for pair, why in failed.items() if worst in pair)
        parts = [f"{len(into)} hosts cannot reach it"] * bool(into) + [f"it cannot reach {len(out)} hosts"] * bool(out)
        yield _not_reached(worst, f"{' and '.join(parts)} (port {port.get(worst, 0):.0f}: {why})")
        failed = {pair: why for pair, why in failed.items() if worst not in pair}


def _not_reached(host: str, problem: str) -> Fault:
    return Fault(
        host, "ports", "not-reached", Severity.ERROR, problem,
        "open the ports that ranks use between the hosts (firewall, security group), and see to routes",
        ("nft list ruleset || iptables -L -n; ip route",),
    )  # fmt: skip
