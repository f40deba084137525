"""Looks at hosts before a run does: asks all at once, judges what they say, and knows what has changed since."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional, Union

from orchestrator import addresses, checkup
from orchestrator.bundle import supervisor_archive
from orchestrator.checks import alike, baseline, devices, machine, pings
from orchestrator.checks.facts import CHECKS, OF_DEVICES, Fault, HostFacts, read_closer, read_facts
from orchestrator.checks.pairs import CHECK as COLLECTIVE
from orchestrator.checks.pairs import Measured
from orchestrator.errors import HostError, RunDirError
from orchestrator.farhosts import FarHost, Line, keep
from orchestrator.findings import Severity
from orchestrator.hosts import PYTHON
from orchestrator.inventory import HostEntry, Inventory
from orchestrator.jobspec import JobSpec
from orchestrator.store import Store
from orchestrator.supervisor.rundir import write_atomically
from orchestrator.transport.base import Transport
from orchestrator.transport.fanout import Fleet

WORK_FOLDER, CACHE = "~/ascendrun", ".ascendrun"  # as attempts.py has them
_SPARE_FOLDER = "~/.cache/ascendrun"  # where ours go when the work folder takes nothing
_ANSWER_S = 60.0


@dataclass(frozen=True)
class Order:
    """What to look at. *port* 0: any that is free, for dialling between hosts."""

    job: Optional[JobSpec] = None
    port: int = 0
    timeout_s: float = 15.0  # of npu-smi and hccn_tool, each time


@dataclass(frozen=True)
class Report:
    """What was found of all hosts, in the order of the inventory."""

    hosts: tuple[str, ...]
    facts: Mapping[str, HostFacts]  # of those that answered
    faults: tuple[Fault, ...]
    changes: Mapping[str, "list[str]"] = field(default_factory=dict)  # since the baseline, where there is one
    pairs: tuple[Measured, ...] = ()  # where all-reduces were asked for

    @property
    def failed(self) -> bool:
        return any(fault.severity is Severity.ERROR for fault in self.faults)

    @property
    def checks(self) -> "tuple[str, ...]":
        """The checks that were made, in the order in which they are shown."""
        measured = self.pairs or any(fault.check == COLLECTIVE for fault in self.faults)
        return (*CHECKS, COLLECTIVE) if measured else CHECKS

    def state(self, host: str, check: str) -> Optional[str]:
        """Return pass, warning or failure; None where it could not be looked at, or there is nothing to look at."""
        found = {fault.severity for fault in self.faults if (fault.host, fault.check) == (host, check)}
        if found:
            return "failure" if Severity.ERROR in found else "warning"
        if check == "connection":
            return "pass"
        if check == COLLECTIVE:
            return "pass" if any(host in one.hosts for one in self.pairs) else None
        facts = self.facts.get(host)
        if facts is None or (check in OF_DEVICES and not facts.has_devices):
            return None
        if check == "links" and not facts.ports:
            return None
        if check in ("ports", "clock") and len(self.hosts) == 1 and facts.told["address"] is None:
            return None
        return "pass"


@dataclass(frozen=True)
class _Asked:
    """A host that has answered the first question, and waits for the second."""

    facts: HostFacts
    line: Line
    heard_at: float


def examine_here(name: str, order: Order) -> Report:
    """Look at this machine alone."""
    entry = HostEntry(name, "localhost")
    listener = checkup.Listener(order.port)
    told = checkup.examine(_question(entry, order))
    told.update(port=listener.port, port_problem=listener.problem, time=time.time())
    facts = HostFacts(name, read_facts(json.dumps(told).encode()))
    closer = checkup.look_closer(_second_question(facts, [], order))
    listener.close()
    return _judge((name,), {name: replace(facts, closer={**closer, "time": time.time()})}, [], order)


def examine_all(inventory: Inventory, fleet: Fleet, order: Order) -> Report:
    """Look at all hosts of *fleet* at once. A host that does not answer is a fault, and hides no other."""
    first = fleet.each(lambda entry, transport: _ask(entry, transport, order))
    waiting = {name: one for name, one in first.items() if isinstance(one, _Asked)}
    try:
        peers = [[name, _address(fleet, one), int(one.facts.told["port"])] for name, one in waiting.items()]
        to_ping = pings.plan([one.facts for one in waiting.values()])

        def again(entry: HostEntry, _: Transport) -> HostFacts:
            one = waiting.get(entry.name)
            if one is None:
                raise HostError(f"{entry.name}: has not answered")
            question = _second_question(one.facts, [peer for peer in peers if peer[0] != entry.name], order)
            return _ask_again(entry, one, {**question, "pings": to_ping.get(entry.name, [])})

        second = fleet.each(again) if waiting else {}
    finally:
        for one in waiting.values():
            with contextlib.suppress(HostError):
                one.line.close()
    faults = [_silent(entry.name, fleet, first[entry.name]) for entry in inventory.entries if entry.name not in waiting]
    faults += [
        _silent(name, fleet, told) for name, told in second.items() if name in waiting and isinstance(told, HostError)
    ]
    facts = {name: told for name, told in second.items() if isinstance(told, HostFacts)}
    return _judge(tuple(entry.name for entry in inventory.entries), facts, faults, order)


def _question(entry: HostEntry, order: Order) -> "dict[str, Any]":
    program = order.job.command[0] if order.job and order.job.command else None
    if program is not None and os.sep in program and not os.path.isabs(program):
        program = None  # it comes along with its folder
    return {
        "folder": entry.work_folder or WORK_FOLDER,
        "devices": [device.device_id for device in entry.devices or ()],
        "timeout_s": order.timeout_s,
        "port": order.port,
        "program": program,
    }


def _second_question(facts: HostFacts, peers: "Sequence[Sequence[Any]]", order: Order) -> "dict[str, Any]":
    queries = [devices.health_words(device) for device in devices.ill(facts)]
    pids = list(devices.pids(facts))
    return {"peers": peers, "queries": queries, "pids": pids, "pings": [], "timeout_s": order.timeout_s}


def bring(entry: HostEntry, transport: Transport) -> FarHost:
    """Bring what runs of us on a host there. Raises HostError."""
    try:
        (archive,) = keep(transport, f"{entry.work_folder or WORK_FOLDER}/{CACHE}", [supervisor_archive()])
    except HostError:  # what is wrong with that folder it will say itself
        (archive,) = keep(transport, _SPARE_FOLDER, [supervisor_archive()])
    return FarHost(entry, entry.python or PYTHON, archive, "")


def _ask(entry: HostEntry, transport: Transport, order: Order) -> _Asked:
    far = bring(entry, transport)
    line = Line(far, transport, ["checkup"])
    try:
        line.say(_question(entry, order))
        told = read_facts(line.hear(_ANSWER_S + 2 * order.timeout_s))
    except ValueError as exc:
        line.close()
        raise HostError(f"{entry.name}: {far.python} there does not answer as ours: {exc}") from exc
    except BaseException:
        line.close()
        raise
    heard_at = time.time()
    ids = None if entry.devices is None else tuple(device.device_id for device in entry.devices)
    wanted = {device.device_id: device.device_ip for device in entry.devices or () if device.device_ip}
    return _Asked(HostFacts(entry.name, told, expected_ids=ids, expected_addresses=wanted), line, heard_at)


def _ask_again(entry: HostEntry, one: _Asked, question: "Mapping[str, Any]") -> HostFacts:
    asked_at = time.time()
    one.line.say(question)
    try:
        closer = read_closer(one.line.hear(_ANSWER_S + 2 * float(question["timeout_s"])))
    except ValueError as exc:
        raise HostError(f"{entry.name}: does not answer as ours: {exc}") from exc
    # Its first word was said before we heard it, and our second was said before it looked at its clock.
    off_s = (one.facts.told["time"] - one.heard_at, closer["time"] - asked_at)
    return replace(one.facts, closer=closer, clock_off_s=(min(off_s), max(off_s)))


def _address(fleet: Fleet, one: _Asked) -> str:
    """Return where the other hosts can dial a host."""
    entry = next(entry for entry, _ in fleet.members if entry.name == one.facts.name)
    if one.facts.told["address"]:
        return str(one.facts.told["address"])
    if not entry.is_this_machine():
        return entry.address
    try:
        return addresses.own_address()
    except HostError:
        return entry.address


def _silent(name: str, fleet: Fleet, told: "Union[HostError, object]") -> Fault:
    """Return what a host that gives no facts is at fault of."""
    words = str(told).split(f"{name}: ", 1)[-1]
    if name in fleet.errors:
        return Fault(name, "connection", "not-connected", Severity.ERROR, words, "see that it runs, and that ssh works")
    if "ython" in words:
        remedy = "name a Python of 3.9 or later as `python:` in the hosts file"
        return Fault(name, "python", "python-unusable", Severity.ERROR, words, remedy)
    if "cannot keep files" in words:
        return Fault(name, "disk", "nothing-kept", Severity.ERROR, words, "make room, or name another `work_folder:`")
    return Fault(name, "connection", "no-answer", Severity.ERROR, words, "see whether the host is overloaded or stuck")


def _judge(
    names: "tuple[str, ...]", facts: "Mapping[str, HostFacts]", faults: "Sequence[Fault]", order: Order
) -> Report:
    found = list(faults)
    for host in facts.values():
        found += [*machine.faults_of(host, order.job), *devices.faults_of(host)]
    found += [*alike.faults_among(list(facts.values())), *pings.faults_among(list(facts.values()))]
    found.sort(key=lambda fault: (names.index(fault.host), CHECKS.index(fault.check)))
    report = Report(names, facts, tuple(dict.fromkeys(found)))
    return replace(report, changes=_changes(report))


# ── baselines ──────────────────────────────────────────────────────────────────────────────────────────────


def save(report: Report) -> Path:
    """Keep what the hosts are like now, to compare with later; return the folder. Raises RunDirError."""
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, host in report.facts.items():
            write_atomically(folder / f"{name}.json", json.dumps(baseline.lasting(host), indent=1) + "\n")
    except OSError as exc:
        raise RunDirError(f"cannot keep the baseline in {folder}: {exc.strerror}") from exc
    return folder


def _changes(report: Report) -> "dict[str, list[str]]":
    found = {}
    for name, host in report.facts.items():
        try:
            stored = json.loads((_folder() / f"{name}.json").read_bytes())
        except (OSError, ValueError):
            continue  # none was kept, or not by us
        if isinstance(stored, dict):
            before = {str(key): str(value) for key, value in stored.items()}
            if told := baseline.changes(before, baseline.lasting(host)):
                found[name] = told
    return found


def _folder() -> Path:
    return Store.of_user().links.parent / "doctor"
