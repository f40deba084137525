"""The part of `doctor` that a launch runs by itself: what would make this very run fail, or be slow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Optional

from orchestrator.checks.facts import Fault, HostFacts, check_facts
from orchestrator.errors import HostError
from orchestrator.findings import Severity

TOOL_S = 10.0  # for npu-smi or hccn_tool: one that takes longer is stuck
_MOST_LINES = 10
# What many jobs never need: a failure of it is told, and a warning is not.
_OF_SOME_JOBS = {"shared-memory-small", "open-files-few", "processes-few", "memory-short", "disk-full"}


def question(devices: "Optional[Sequence[int]]") -> "dict[str, Any]":
    """Return what `checkup.glance` is asked on a host; *devices* as there."""
    return {"devices": devices, "timeout_s": TOOL_S}


def here(name: str, folder: Path, devices: "Optional[Sequence[int]]") -> HostFacts:
    """Return the facts of this machine. *devices*: those that the run uses; None: it runs on CPUs."""
    from orchestrator import checkup

    told = json.loads(json.dumps(checkup.glance(folder, **question(devices))))
    return HostFacts(name, check_facts(told), used_ids=None if devices is None else tuple(devices))


def of_told(name: str, told: object, off_s: "tuple[float, float]", devices: "Sequence[int]") -> HostFacts:
    """Return the facts that a host glanced at. Raises HostError where it made them up."""
    try:
        return HostFacts(name, check_facts(told), clock_off_s=off_s, used_ids=tuple(devices))
    except ValueError as exc:
        raise HostError(f"{name}: does not answer as ours: {exc}") from exc


def judge(hosts: "Sequence[HostFacts]", *, ranks: int) -> "tuple[list[Fault], list[Fault]]":
    """Return what makes a run of *ranks* fail, and what may slow it down."""
    from orchestrator.checks import machine

    found = [fault for host in hosts for fault in machine.faults_of(host)]
    if any(host.has_devices for host in hosts):
        from orchestrator.checks import devices

        found += [fault for host in hosts for fault in devices.faults_of(host)]
    if len(hosts) > 1:
        from orchestrator.checks import alike

        found += alike.faults_among(hosts)
    if ranks == 1:
        found = [fault for fault in found if fault.check != "links"]  # it speaks to nobody
    bad = [fault for fault in found if fault.severity is Severity.ERROR]
    ends = [fault for fault in bad if fault.code not in _OF_SOME_JOBS]
    tells = [fault for fault in found if (fault in bad) == (fault.code in _OF_SOME_JOBS)]
    return ends, tells


def warnings_of(hosts: "Sequence[HostFacts]", *, ranks: int, under_way: bool = False) -> "list[str]":
    """Return what may slow a run down, a line each.

    Raises HostError with what makes it fail, a line each, unless it is *under_way* all the same.
    """
    ends, tells = judge(hosts, ranks=ranks)
    if under_way:
        tells = ends + tells
    elif ends:
        lines = _lines(ends, remedy=True)
        raise HostError("\n".join([*lines, "nothing was started; --skip-doctor launches all the same"]))
    return [f"warning: {line}" for line in _lines(tells)]


def _lines(faults: "Iterable[Fault]", *, remedy: bool = False) -> "list[str]":
    """Return what is wrong, once for all hosts of which it is said."""
    by_words: "dict[str, list[str]]" = {}
    for fault in faults:
        words = f"{fault.problem}; {fault.remedy}" if remedy else fault.problem
        by_words.setdefault(words, []).append(fault.host)
    lines = [f"{_named(hosts)}: {words}" for words, hosts in by_words.items()]
    more = len(lines) - _MOST_LINES
    return lines if more <= 0 else [*lines[:_MOST_LINES], f"and {more} more: `ascendrun doctor` has all"]


def _named(hosts: "Sequence[str]") -> str:
    return ", ".join(hosts[:3]) + (f" and {len(hosts) - 3} more" if len(hosts) > 3 else "")
