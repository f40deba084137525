"""HostFacts and Fault: what a host told `doctor`, and what is to be said of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Optional

from orchestrator.findings import Severity

if TYPE_CHECKING:  # a launch looks at hosts without devices too, and need not wait for these
    from orchestrator.probes.network import Port
    from orchestrator.probes.npuinfo import NpuInfo

# In the order in which they are shown.
CHECKS = (
    "connection", "python", "software", "cpu", "memory", "disk", "clock", "limits", "network", "ports",
    "devices", "links", "processes", "leftovers",
)  # fmt: skip
OF_DEVICES = ("devices", "links", "processes")


@dataclass(frozen=True)
class Fault:
    """What is wrong with a host, and what helps. *commands* would do it; nobody runs them but the user."""

    host: str
    check: str  # one of CHECKS
    code: str  # short and stable, for scripts: link-down
    severity: Severity
    problem: str
    remedy: str
    commands: tuple[str, ...] = ()  # for that host's shell


@dataclass(frozen=True)
class HostFacts:
    """What a host said of itself, as `checkup.examine` has it."""

    name: str
    told: Mapping[str, Any]
    clock_off_s: tuple[float, float] = (0.0, 0.0)  # its clock is ahead of ours by at least, at most
    closer: Mapping[str, Any] = field(default_factory=dict)  # as `checkup.look_closer` has it
    expected_ids: Optional[tuple[int, ...]] = None  # devices that the hosts file names
    expected_addresses: Mapping[int, str] = field(default_factory=dict)  # of the hosts file
    used_ids: Optional[tuple[int, ...]] = None  # devices that matter; None: all

    @cached_property
    def info(self) -> NpuInfo:
        """Return what npu-smi said of the devices that matter."""
        from orchestrator.probes.npuinfo import parse_info

        info = parse_info(self.told["npu"]["text"])
        devices = tuple(device for device in info.devices if self.matters(device.device_id))
        places = {(device.npu, device.chip) for device in devices}
        return replace(
            info, devices=devices, processes=tuple(one for one in info.processes if (one.npu, one.chip) in places)
        )

    @cached_property
    def ports(self) -> "dict[int, Port]":
        """Return what hccn_tool said of each device."""
        answers = "\n".join(f"hccn_tool -i {one['device']} {one['query']}\n{one['text']}" for one in self.told["hccn"])
        return self._ports_in(answers)

    @cached_property
    def configured(self) -> "dict[int, Port]":
        """Return what /etc/hccn.conf says of each device."""
        return self._ports_in(self.told["files"].get("/etc/hccn.conf", ""))

    def _ports_in(self, text: str) -> "dict[int, Port]":
        from orchestrator.probes.network import parse_ports

        found = parse_ports(text).ports
        return {port.device: port for port in found if port.device is not None and self.matters(port.device)}

    def matters(self, device_id: int) -> bool:
        return self.used_ids is None or device_id in self.used_ids

    @property
    def has_devices(self) -> bool:
        """Whether there is anything of Ascend's, be it broken."""
        return bool(
            self.told["davinci"] or self.told["asked_ids"] or self.expected_ids or not self.told["npu"]["missing"]
        )

    def interface(self) -> "Optional[tuple[str, Mapping[str, Any]]]":
        """Return the network interface by which this host was reached."""
        for name, told in self.told["interfaces"].items():
            if told["address"] is not None and told["address"] == self.told["address"]:
                return name, told
        return None


def read_facts(line: bytes) -> "dict[str, Any]":
    """Return what a host told in its first line. Raises ValueError for anything else."""
    return _read(line, _FACTS)


def check_facts(told: object) -> "dict[str, Any]":
    """Return what a host told beside other things. Raises ValueError where it is not what `read_facts` takes."""
    return _check(told, _FACTS)


def read_closer(line: bytes) -> "dict[str, Any]":
    """Return what a host told in its second line. Raises ValueError for anything else."""
    return _read(line, _CLOSER)


def _read(line: bytes, shape: "Mapping[str, Callable[[Any], bool]]") -> "dict[str, Any]":
    try:
        told = json.loads(line)
    except RecursionError as exc:
        raise ValueError("nested too deep") from exc
    return _check(told, shape)


def _check(told: object, shape: "Mapping[str, Callable[[Any], bool]]") -> "dict[str, Any]":
    if not isinstance(told, dict):
        raise ValueError(f"{told!s:.80}")
    for name, fits in shape.items():
        if name not in told or not fits(told[name]):
            raise ValueError(f"{name} is {told.get(name)!s:.80}")
    return told


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 1e20


def _is_number_or_none(value: object) -> bool:
    return value is None or _is_number(value)


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_id, value))


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 31


def _are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _has(**shape: "Callable[[Any], bool]") -> "Callable[[Any], bool]":
    return lambda value: (
        isinstance(value, dict) and all(key in value and fits(value[key]) for key, fits in shape.items())
    )


def _maybe(fits: "Callable[[Any], bool]") -> "Callable[[Any], bool]":
    return lambda value: value is None or fits(value)


def _each(fits: "Callable[[Any], bool]") -> "Callable[[Any], bool]":
    return lambda value: (
        isinstance(value, (list, dict)) and all(map(fits, value.values() if isinstance(value, dict) else value))
    )


_TOOL = {"code": _is_number_or_none, "missing": lambda value: isinstance(value, bool), "text": _is_text}
_DISK = _has(
    folder=_is_text, writable=lambda value: isinstance(value, bool), total=_is_number, free=_is_number,
    inodes=_is_number, free_inodes=_is_number,
)  # fmt: skip
_FACTS: "dict[str, Callable[[Any], bool]]" = {
    **dict.fromkeys(("hostname", "user", "python", "kernel", "arch"), _is_text),
    **dict.fromkeys(("address", "cann", "port_problem", "program"), _is_text_or_none),
    **dict.fromkeys(("time", "cpus", "numa_nodes", "load", "port"), _is_number),
    **dict.fromkeys(("packages", "files"), _are_texts),
    **dict.fromkeys(("davinci", "asked_ids"), _are_numbers),
    "memory": _has(total=_is_number, available=_is_number),
    "disk": _maybe(_DISK),
    "shm": _maybe(_DISK),
    "limits": _has(nofile=_is_number_or_none, nproc=_is_number_or_none),
    "interfaces": _each(_has(state=_is_text, address=_is_text_or_none, mtu=_is_number_or_none)),
    "npu": _has(**_TOOL),
    "hccn": _each(_has(device=_is_id, query=_is_text, **_TOOL)),
    "program_there": lambda value: isinstance(value, bool),
    "leftovers": _each(lambda value: isinstance(value, list) and len(value) == 7),
}
_CLOSER: "dict[str, Callable[[Any], bool]]" = {
    "time": _is_number,
    "reached": _each(_is_text_or_none),
    "owners": _each(_has(user=_is_text, command=_is_text, run=_is_text_or_none)),
    "answers": _each(_has(**_TOOL)),
    "pings": _each(_has(device=_is_id, peer=_is_text, peer_device=_is_id, **_TOOL)),
}
