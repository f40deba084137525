"""All-reduces between pairs of hosts, for `doctor --collective`: rounds of pairs until it is known who is slow."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Optional, Union

from orchestrator import addresses, allreduce, doctor, farside, launch, ranktables
from orchestrator.attempts import Looked, host_of
from orchestrator.checks import pairs
from orchestrator.checks.facts import Fault, HostFacts
from orchestrator.checks.pairs import Measured
from orchestrator.errors import AscendrunError, HostError
from orchestrator.farhosts import FarHost, Line
from orchestrator.findings import Severity
from orchestrator.jobspec import JobSpec
from orchestrator.plan import HEEDED_VARIABLES, Ports, Site, make_plan
from orchestrator.supervisor.rundir import RunDir
from orchestrator.transport.base import Transport
from orchestrator.transport.fanout import Fleet, in_parallel

_ANSWER_S = 60.0
_MEET_S = 240.0  # for MindSpore to start, to compile and to meet its peer
_PATIENCE, _PATIENCE_S = 2.0, 20.0  # when most ranks have met: as long again, and a little
_MEASURE_S = 90.0
_JOB = JobSpec("doctor", command=("python",), framework="mindspore")


@dataclass(frozen=True)
class _Member:
    """A host that takes part, and how it is reached."""

    far: FarHost
    transport: Transport
    version: str  # of MindSpore there


class _Pair:
    """Two hosts that are to make all-reduces together."""

    def __init__(self, members: "tuple[_Member, _Member]") -> None:
        self.members = members
        self.problem: Optional[str] = None  # the first
        self.looked: "dict[str, Looked]" = {}
        self.ready: "set[str]" = set()
        self._lines: "list[Line]" = []
        self._lock = threading.Lock()

    @property
    def names(self) -> "tuple[str, str]":
        return self.members[0].far.name, self.members[1].far.name

    def open(self, member: _Member) -> Line:
        line = Line(member.far, member.transport, ["pair"])
        with self._lock:
            self._lines.append(line)
        return line

    def fail(self, problem: str) -> None:
        """Take down why there will be no figures, if it is the first reason, and end both ranks."""
        with self._lock:
            self.problem = self.problem or problem
        self.close()

    def close(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
        for line in lines:
            with contextlib.suppress(HostError):
                line.close()


def examine(report: doctor.Report, fleet: Fleet, tell: "Callable[[str], None]" = lambda _: None) -> doctor.Report:
    """Return *report* with what all-reduces over pairs of its hosts say; *tell* of each round.

    Hosts that doctor could not look at, and those without MindSpore, take no part.
    """
    found = list(report.faults)
    versions = {name: _mindspore(facts) for name, facts in report.facts.items()}
    lacking = [name for name, version in versions.items() if version is None]
    found += [_without(name, report.facts[name]) for name in lacking]
    with_it = [one for one in fleet.connected if versions.get(one.entry.name)]
    brought = fleet.each(doctor.bring) if len(with_it) > 1 else {}
    members = {}
    for one in with_it:
        far = brought.get(one.entry.name)
        if isinstance(far, FarHost):
            members[one.entry.name] = _Member(far, one.transport, str(versions[one.entry.name]))
    backend = "ascend" if all(report.facts[name].told["davinci"] for name in members) else "cpu"
    measured: "list[Measured]" = []
    while chosen := pairs.next_round(list(members), measured):
        number = 1 + max((one.round for one in measured), default=0)
        tell(f"all-reduce, round {number}: {len(chosen)} pair{'s' * (len(chosen) != 1)} of hosts")
        now = [_Pair((members[one], members[other])) for one, other in chosen]
        measured += _measure(now, backend, number, fleet)
    found += pairs.faults(list(members), measured)
    return replace(report, faults=tuple(found), pairs=tuple(measured))


def _mindspore(facts: HostFacts) -> Optional[str]:
    packages = facts.told["packages"]
    return next((str(packages[name]) for name in ("mindspore", "mindspore-ascend") if name in packages), None)


def _without(name: str, facts: HostFacts) -> Fault:
    return Fault(
        name, pairs.CHECK, "all-reduce-not-run", Severity.WARNING,
        f"MindSpore is not installed for its Python {facts.told['python']}, so no all-reduce was run with it",
        "install it there, or name the Python that has it as `python:` in the hosts file",
    )  # fmt: skip


def _measure(now: "Sequence[_Pair]", backend: str, number: int, fleet: Fleet) -> "list[Measured]":
    """Run all pairs of a round at the same time, each step of it together: those that start disturb who measures."""
    sides = [(pair, member) for pair in now for member in pair.members]

    def together(do: "Callable[[_Pair, _Member], Any]") -> "dict[str, Any]":
        """Return what *do* gives for each host whose pair has not failed, by its name."""

        def one(side: "tuple[_Pair, _Member]") -> Any:
            pair, member = side
            if pair.problem is not None:
                return None
            try:
                return do(pair, member)
            except AscendrunError as exc:
                pair.fail(str(exc))
                return None

        # all at once: a rank waits for its peer
        told = in_parallel(sides, one, at_once=len(sides), interrupt=fleet.close)
        return {member.far.name: said for (_, member), said in zip(sides, told)}

    try:
        lines = together(_look)
        for pair in now:
            if pair.problem is None:
                try:
                    _tell_plans(pair, backend, lines)
                except AscendrunError as exc:
                    pair.fail(str(exc))
        patience = _Patience(now)
        together(lambda pair, member: _hear_ready(pair, lines[member.far.name], patience))
        patience.end()
        figures = together(lambda _, member: _hear_figures(lines[member.far.name]))
    finally:
        in_parallel(now, lambda pair: pair.close())
    return [_measured(pair, number, [figures[name] for name in pair.names]) for pair in now]


def _look(pair: _Pair, member: _Member) -> Line:
    entry = member.far.entry
    line = pair.open(member)
    folder = os.path.join(os.path.dirname(member.far.archive), f"pair-{os.urandom(6).hex()}")
    line.say({"folder": folder, "modules": [], "ports": 2, "environment": HEEDED_VARIABLES})
    try:
        facts = farside.read_facts(line.hear(_ANSWER_S))
    except ValueError as exc:
        raise HostError(f"{entry.name}: does not answer as ours: {exc}") from exc
    pair.looked[entry.name] = Looked(entry, member.far.archive, None, line, facts, (0.0, 0.0))
    return line


def _tell_plans(pair: _Pair, backend: str, lines: "Mapping[str, Line]") -> None:
    """Tell both hosts what to run. Raises AscendrunError where they cannot go together."""
    names, table = pair.names, None
    version = pair.members[0].version
    if launch.rendezvous_of(_JOB, launch.LaunchRequest(), ascend=backend == "ascend", mindspore=version) != "cluster":
        found = [addresses.choose(addresses.ask(member.far.entry, member.transport), "1") for member in pair.members]
        made, product = ranktables.make(found, None, None)
        table = ranktables.text_of(made, product=product)[0]
        order = [server.server_id for server in made.servers]
        ids = {member.far.name: member.far.entry.server_id or member.far.entry.address for member in pair.members}
        names = (names[0], names[1]) if order[0] == ids[names[0]] else (names[1], names[0])
    sites = []
    for name in names:
        looked = pair.looked[name]
        host = host_of(looked, backend, alone=False)
        run_dir = RunDir(Path(looked.facts["folder"]))
        sites.append(Site(host, host.devices[:1], run_dir, looked.facts["executable"], looked.facts["environment"]))
    plan = make_plan(
        _JOB, sites, run_id="doctor", name="doctor", created_at=time.time(),
        ports=Ports(*pair.looked[names[0]].facts["ports"]), launched_from="/", command_line=(), rank_table=table,
    )  # fmt: skip
    for rank, site in zip(plan.ranks, sites):
        processes = [{**asdict(rank.process), "argv": [site.python, str(site.run_dir.root / allreduce.RANK)]}]
        if plan.scheduler is not None and rank.rank_id == 0:
            processes.append(asdict(plan.scheduler))
        lines[rank.host].say(
            {"folder": str(site.run_dir.root), "processes": processes, "rank_table": table,
             "limit_s": _MEET_S + _MEASURE_S}
        )  # fmt: skip


class _Patience:
    """Gives up pairs that have not met long after most others had."""

    def __init__(self, now: "Sequence[_Pair]") -> None:
        self._now = now
        self._began = time.monotonic()
        self._timer: Optional[threading.Timer] = None
        self._lock = threading.Lock()

    def heard(self) -> None:
        with self._lock:
            met = sum(len(pair.ready) == len(pair.members) for pair in self._now)
            if self._timer is None and 2 * met > len(self._now):
                wait_s = _PATIENCE * (time.monotonic() - self._began) + _PATIENCE_S
                self._timer = threading.Timer(wait_s, self._give_up)
                self._timer.daemon = True
                self._timer.start()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _give_up(self) -> None:
        for pair in self._now:
            if len(pair.ready) < len(pair.members):
                pair.fail(
                    f"they had not met {time.monotonic() - self._began:.0f} s after they began, as most others had"
                )


def _hear_ready(pair: _Pair, line: Line, patience: _Patience) -> None:
    if _told(line, _MEET_S).get("ready") is not True:
        raise HostError("a rank does not answer as ours")
    pair.ready.add(line.name)
    patience.heard()


def _hear_figures(line: Line) -> "dict[str, float]":
    line.nod()
    told = _told(line, _MEASURE_S)
    return {name: float(told[name]) for name in ("small_s", "large_s") if _is_time(told.get(name))}


def _told(line: Line, timeout_s: float) -> "dict[str, Any]":
    try:
        told = json.loads(line.hear(timeout_s))
    except (ValueError, RecursionError):
        told = None
    return told if isinstance(told, dict) else {}


def _is_time(value: object) -> bool:
    return isinstance(value, float) and 0 < value < 1e6


def _measured(pair: _Pair, number: int, figures: "Sequence[Union[Mapping[str, float], None]]") -> Measured:
    """Return what a pair came to: the later of both ranks counts."""
    if pair.problem is None and all(figure is not None and len(figure) == 2 for figure in figures):
        small, large = (max(figure[name] for figure in figures if figure) for name in ("small_s", "large_s"))
        return Measured(pair.names, number, small, large)
    return Measured(pair.names, number, problem=pair.problem or "the ranks told no figures")
