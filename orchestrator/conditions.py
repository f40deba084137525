"""Conditions: what supervisors tell of their hosts beside the ranks: disks that fill up, devices that ail. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from orchestrator.supervisor import events
from orchestrator.supervisor.events import Event

_FULL_BYTES = 1 << 20  # as for supervisor/watching.py
_MOST_LETTERS = 60  # of a figure that is none
# What became worse -> how people say so.
_WORDS = {
    "health": "health is {now}, was {before}",
    "temperature": "{now} °C, was {before} °C",
    "ecc": "{now} memory errors (ECC) that could not be corrected, {before} when the run began",
    "corrected_ecc": "{now} corrected memory errors (ECC), {before} when the run began",
    "isolated_pages": "{now} worn pages of memory given up, {before} when the run began",
    "link": "its link is {now}, was {before}",
    "link_flaps": "its link went down and came back: {now} times so far, {before} when the run began",
    "net_health": "its net health is {now}, was {before}",
    "hbm_growth": "its memory in use grows and grows: {now} MB, was {before} MB",
    "npu_smi": "npu-smi answered, and now: {now}",
    "host_memory": "little memory is left: {now} bytes, was {before} bytes",
}


@dataclass(frozen=True)
class Ailment:
    """A device, or a host, got worse while a rank used it."""

    host: str
    device: Optional[int]  # None: the whole host
    rank: Optional[int]  # on that device
    what: str  # as supervisor/health.py names it
    is_fault: bool  # a rank that fails there failed of it; else: a warning
    before: Any = None
    now: Any = None
    codes: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        return self.host if self.device is None else f"device {self.device} of {self.host}"

    def sentence(self) -> str:
        """Say what is wrong: `health is Alarm, was OK (8C03A000)`."""
        now, before = _spell(self.now), _spell(self.before)
        if (self.what, now) == ("health", "gone"):
            return "npu-smi does not show it any more"
        words = _WORDS.get(self.what, "{what}: {now}, was {before}")
        codes = f" ({' '.join(self.codes)})" if self.codes else ""
        return words.format(what=self.what, now=now, before=before) + codes


def _spell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "not known" if value is None else str(value)[:_MOST_LETTERS]


@dataclass(frozen=True)
class Conditions:
    low_disks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # free_bytes, total_bytes by host
    # When the disk of a host was full, last: from, and until (None: it is), by the host's monotonic clock.
    full_disks: Mapping[str, tuple[float, Optional[float]]] = field(default_factory=dict)
    ailments: tuple[Ailment, ...] = ()  # that are not over, oldest first
    faults: tuple[Ailment, ...] = ()  # all of this attempt

    def after(self, event: Event) -> Conditions:
        """Return what is known after one of the events in KINDS."""
        return _CHANGES[event.kind](self, event)

    def of_next_attempt(self) -> Conditions:
        """Return what outlasts the ranks: each supervisor looks at its devices anew."""
        return Conditions(self.low_disks)


def _disk_low(now: Conditions, event: Event) -> Conditions:
    full = dict(now.full_disks)
    free = event.data.get("free_bytes")
    if isinstance(free, (int, float)) and free < _FULL_BYTES:
        full[event.host] = (event.mono, None)
    return replace(now, low_disks={**now.low_disks, event.host: event.data}, full_disks=full)


def _disk_low_over(now: Conditions, event: Event) -> Conditions:
    full = dict(now.full_disks)
    if event.host in full:
        full[event.host] = (full[event.host][0], event.mono)
    low = {name: disk for name, disk in now.low_disks.items() if name != event.host}
    return replace(now, low_disks=low, full_disks=full)


def _health(now: Conditions, event: Event) -> Conditions:
    data = event.data
    device, what, codes = data.get("device"), str(data.get("what")), data.get("codes")
    is_fault = data.get("severity") == "fault"
    told = Ailment(
        event.host,
        device if type(device) is int else None,
        event.rank,
        what,
        is_fault,
        data.get("before"),
        data.get("now"),
        tuple(map(str, codes)) if isinstance(codes, list) else (),
    )
    changed = replace(now, ailments=(*_others(now, event), told))
    return replace(changed, faults=(*now.faults, told)) if is_fault else changed


def _health_over(now: Conditions, event: Event) -> Conditions:
    return replace(now, ailments=_others(now, event))


def _others(now: Conditions, event: Event) -> tuple[Ailment, ...]:
    key = event.host, event.data.get("device"), event.data.get("what")
    return tuple(one for one in now.ailments if (one.host, one.device, one.what) != key)


_CHANGES = {
    events.DISK_LOW: _disk_low,
    events.DISK_LOW_OVER: _disk_low_over,
    events.HEALTH: _health,
    events.HEALTH_OVER: _health_over,
}
KINDS = tuple(_CHANGES)
