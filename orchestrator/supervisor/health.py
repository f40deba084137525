"""What has worsened on a host while ranks run: a series of samples in, changes out. Pure, and without a clock.

A sample is what `asking.look` says of devices, and what the host has of memory. What a device has been like from the
beginning is no news, however odd; what crosses a limit, grows or breaks is told once, and again when it gets worse by
a level. Sources: the limits of `doctor`; MindCluster's fault codes for what a device must not be used after.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Deque, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

WARNING, FAULT = "warning", "fault"

_LEVELS = {"OK": 0, "Warning": 1, "Alarm": 2, "Critical": 3}  # of health; what else it may be called is a warning
_GONE = 4
_GOOD_NET = ("Success", "Init")
_CALM = 3  # good samples in a row end what was told
_HOT_C, _TOO_HOT_C, _WARM_C, _COOL_C = 85, 100, 70, 60
_RISE_C, _RISING = 5, 10  # so much, over so many samples that are all above _WARM_C: it is on its way to the limit
_HOTTER_C = 20  # than the median of the others that this run uses, above _COOL_C: hot for its kind
_MANY_CORRECTED = 16
_WORN_PAGES = 64  # of memory that were given up: the device is to be replaced
_WINDOW, _WINDOWS, _LEAK_SHARE = 20, 5, 0.02  # samples; of them in a row; of the memory of a device
_LITTLE_SHARE, _LITTLE_BYTES = 0.05, 8e9  # the host has little memory left when it has less than both

Key = Tuple[str, Optional[int]]  # what, and of which device; None: the host


class Change(NamedTuple):
    """Something became worse, or is over."""

    what: str  # health | temperature | ecc | corrected_ecc | isolated_pages | link | link_flaps | net_health | ...
    device: Optional[int]  # None: the whole host
    severity: Optional[str]  # None: it is over
    level: int
    before: Any
    now: Any


@dataclass
class _Device:
    """What is remembered of a device."""

    health: Optional[str] = None
    temps_c: Deque[float] = field(default_factory=lambda: deque(maxlen=_RISING))
    above_c: int = 0  # samples in a row in which it was hotter than its kind
    link_was_up: bool = False
    net_was_good: bool = False
    first: Dict[str, float] = field(default_factory=dict)  # counters as they were
    window: List[float] = field(default_factory=list)  # memory in use
    least: Optional[float] = None  # of the window before
    floor: float = 0.0  # where the steady growth began
    rises: int = 0  # windows in a row
    is_warm: bool = False  # the first window, in which memory is taken, is over


class Health:
    """Folds samples. *links_matter*: the ranks of this host use the devices' own network."""

    def __init__(self, *, links_matter: bool) -> None:
        self._links_matter = links_matter
        self._devices: Dict[int, _Device] = {}
        self._told: Dict[Key, int] = {}  # the highest level of what is not over
        self._calm: Dict[Key, int] = {}
        self._before: Dict[Key, Any] = {}
        self._answered = False
        self._unanswered = 0

    def restore(self, key: Key, level: int) -> None:
        """Know that a level (0: the end) of something was told already, by a supervisor before this one."""
        if level:
            self._told[key] = level
        else:
            self._told.pop(key, None)

    def look(self, sample: Mapping[str, Any]) -> List[Change]:
        """Take in a sample; return what changed. Figures that are missing, or are none, say nothing."""
        found = [*self._tool(sample), *self._memory(sample.get("memory"))]
        told = sample.get("devices")
        figures = {}
        for name, one in told.items() if isinstance(told, Mapping) else ():
            if isinstance(name, str) and name.isascii() and name.isdigit() and isinstance(one, Mapping):
                figures[int(name[:9])] = one
        for device, one in sorted(figures.items()):
            known = self._devices.setdefault(device, _Device())
            found += self._health(device, known, one)
            found += self._temperature(device, known, one, figures)
            found += self._counters(device, known, one)
            found += self._network(device, known, one)
            found += self._leak(device, known, one)
        if sample.get("whole") is True:
            for device in sorted(set(self._devices) - set(figures)):
                was = self._devices[device].health
                found += self._tell("health", device, _GONE, FAULT, "gone", was)
        return found

    def _tell(
        self, what: str, device: Optional[int], level: int, severity: str, now: Any, before: Any = None
    ) -> Iterator[Change]:
        key = what, device
        told = self._told.get(key, 0)
        if level == 0:
            self._calm[key] = self._calm.get(key, 0) + 1
            if told and self._calm[key] >= _CALM:
                del self._told[key]
                yield Change(what, device, None, 0, self._before.get(key), now)
            if key not in self._told:
                self._before[key] = now
            return
        self._calm[key] = 0
        if level > told:
            self._told[key] = level
            yield Change(what, device, severity, level, self._before.get(key) if before is None else before, now)

    # ── the host ───────────────────────────────────────────────────────────────────────────────────

    def _tool(self, sample: Mapping[str, Any]) -> Iterator[Change]:
        if "problem" not in sample:
            return
        problem = sample["problem"]
        self._unanswered = 0 if problem is None else self._unanswered + 1
        self._answered = self._answered or problem is None
        # Once may be chance; and where it never answered there was nothing to get worse.
        level = 1 if self._answered and self._unanswered >= 2 else 0
        if level or problem is None:
            yield from self._tell("npu_smi", None, level, FAULT, problem)

    def _memory(self, told: Any) -> Iterator[Change]:
        if isinstance(told, Mapping):
            free, total = _number(told, "available_bytes"), _number(told, "total_bytes")
            if free is not None and total is not None:
                low = free < min(_LITTLE_SHARE * total, _LITTLE_BYTES)
                yield from self._tell("host_memory", None, int(low), WARNING, free)

    # ── a device ───────────────────────────────────────────────────────────────────────────────────

    def _health(self, device: int, known: _Device, figures: Mapping[str, Any]) -> Iterator[Change]:
        status = figures.get("health")
        if isinstance(status, str):
            known.health = status
            level = _LEVELS.get(status, 1)
            yield from self._tell("health", device, level, FAULT if level > 1 else WARNING, status)

    def _temperature(
        self, device: int, known: _Device, figures: Mapping[str, Any], all_figures: Mapping[int, Mapping[str, Any]]
    ) -> Iterator[Change]:
        now = _number(figures, "temp_c")
        if now is None:
            return
        known.temps_c.append(now)
        told = self._told.get(("temperature", device), 0)
        limit = _HOT_C - (_RISE_C if told else 0)  # a figure that plays about its limit is one piece of news
        past = list(known.temps_c)
        steady = len(past) == _RISING and all(late >= early - 1 for early, late in zip(past, past[1:]))
        rising = steady and past[0] >= _WARM_C and now - past[0] >= _RISE_C
        others = [_number(one, "temp_c") for number, one in all_figures.items() if number != device]
        alike = [one for one in others if one is not None]
        above = len(alike) > 1 and now >= _COOL_C and now - median(alike) >= _HOTTER_C
        known.above_c = known.above_c + 1 if above else 0
        level = 2 if now >= _TOO_HOT_C else int(now >= limit or rising or known.above_c >= _CALM)
        yield from self._tell("temperature", device, level, WARNING, now, past[0] if rising else None)

    def _counters(self, device: int, known: _Device, figures: Mapping[str, Any]) -> Iterator[Change]:
        for what, few in (("ecc", 1), ("corrected_ecc", _MANY_CORRECTED), ("isolated_pages", 1)):
            now = _number(figures, what)
            if now is not None:
                worn = what == "isolated_pages" and now >= _WORN_PAGES
                severity = FAULT if what == "ecc" or worn else WARNING
                first = known.first[what] = min(known.first.get(what, now), now)  # less: the device was reset
                yield from self._tell(what, device, _doublings(now - first, few), severity, now, first)

    def _network(self, device: int, known: _Device, figures: Mapping[str, Any]) -> Iterator[Change]:
        link = figures.get("link")
        if link in ("UP", "DOWN"):
            known.link_was_up = known.link_was_up or link == "UP"
            level = int(link == "DOWN" and known.link_was_up)
            yield from self._tell("link", device, level, FAULT if self._links_matter else WARNING, link)
        flaps = _number(figures, "link_flaps")
        if flaps is not None and link != "DOWN":
            first = known.first["link_flaps"] = min(known.first.get("link_flaps", flaps), flaps)
            yield from self._tell("link_flaps", device, _doublings(flaps - first, 1), WARNING, flaps, first)
        health = figures.get("net_health")
        if isinstance(health, str) and link != "DOWN":
            known.net_was_good = known.net_was_good or health in _GOOD_NET
            level = int(known.net_was_good and health not in _GOOD_NET)
            yield from self._tell("net_health", device, level, WARNING, health)

    def _leak(self, device: int, known: _Device, figures: Mapping[str, Any]) -> Iterator[Change]:
        used, total = _number(figures, "hbm_used_mb"), _number(figures, "hbm_total_mb")
        if used is None or not total or total < 0:
            return
        known.window.append(used)
        if len(known.window) >= _WINDOW:
            least, known.window = min(known.window), []
            if known.least is not None and least > known.least:
                known.rises += 1
            else:
                known.floor, known.rises = least, 0
            known.least, known.is_warm = (least if known.is_warm else None), True
        grown = (known.least or 0.0) - known.floor if known.rises >= _WINDOWS else 0.0
        level = _doublings(grown, _LEAK_SHARE * total)
        yield from self._tell("hbm_growth", device, level, WARNING, used, known.floor)


def _doublings(grown: float, few: float) -> int:
    """Return 0 for less than *few*, 1 from there, 2 from twice as many: what grows for ever is not told for ever."""
    return int(math.log2(grown / few)) + 1 if grown >= few > 0 else 0


def _number(figures: Mapping[str, Any], name: str) -> Optional[float]:
    value = figures.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e15:
        return None
    return value
