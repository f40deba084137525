"""From what was found in the logs of all ranks to the one thing that went wrong first, and the rank it happened to.

Of each rank the weightiest sighting counts, and of equal ones the earliest. A rank that says what failed outweighs all
that only waited for another. Where all only waited, whom they waited for is followed to a rank that waits for nobody.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Optional

from orchestrator.diagnosis.places import Place
from orchestrator.diagnosis.rules import Category, Language, Role, Rule, Rules, Words
from orchestrator.diagnosis.scanning import WEIGHT, Scan, Sighting

_OWN_WORDS = 60  # characters of an exception by which the same is known again
_LATE_S = 60.0  # ranks that come to a collective closer to one another are not late
_MOST_EVIDENCE = 5
_MOST_WORLD = 1_000_000
_SIGNALS = {4: "illegal-instruction", 6: "aborted", 7: "bus-error", 9: "killed", 11: "segmentation-fault"}
# Echoes that say more than that somebody did not come, weightiest first.
_TELLING = ("hccl-heartbeat-lost", "hccl-stuck", "hccl-ranks-missing", "ms-node-timed-out", "mpi-peer-lost")


@dataclass(frozen=True)
class Log:
    """One log: what it is called, whose it is, and what was found in it."""

    name: str
    place: Place
    scan: Scan


@dataclass(frozen=True)
class Endings:
    """How the ranks of a run ended, as its supervisors saw it."""

    first: Optional[int] = None  # the rank that failed first
    of_rank: Mapping[int, str] = field(default_factory=dict)  # `exit code 3`
    signals: Mapping[int, int] = field(default_factory=dict)  # that ended ranks and were not ours


@dataclass(frozen=True)
class Evidence:
    """A line that shows it."""

    rank: Optional[int]
    log: str
    offset: int
    text: str
    at: Optional[float]


@dataclass(frozen=True)
class Explanation:
    """What went wrong. *rule* is None where no rule knows anything that is in the logs."""

    rule: Optional[Rule]
    details: Mapping[str, str]
    category: Optional[Category]  # None: unknown
    retriable: Optional[bool]  # None: unknown
    first_rank: Optional[int]  # it happened to; None: the logs do not tell
    suspects: tuple[int, ...] = ()  # ranks that the others waited for
    place: Optional[str] = None  # in the user's code, or a device or host that HCCL named
    ending: Optional[str] = None  # how first_rank ended, if its supervisor saw it
    evidence: tuple[Evidence, ...] = ()
    waiting: tuple[int, ...] = ()  # ranks that only waited for another
    also: tuple[tuple[Rule, Mapping[str, str], Optional[int]], ...] = ()  # what else was found, and of which rank

    @property
    def known(self) -> bool:
        return self.category is not None

    def words(self, language: Language) -> Optional[Words]:
        return self.rule.words(language, self.details) if self.rule is not None else None


_Key = tuple[Optional[int], str]  # a rank, or else the log (and section) of a process without one


@dataclass(frozen=True)
class _Seen:
    """A sighting with its log, and the weight it has there."""

    sighting: Sighting
    log: str
    rank: Optional[int]
    role: Role

    @property
    def order(self) -> "tuple[int, bool, float, int]":
        at = self.sighting.at
        return WEIGHT[self.role], at is None, at or 0.0, self.sighting.offset


def explain(logs: Sequence[Log], rules: Rules, endings: Optional[Endings] = None) -> Explanation:
    """Return what went wrong in the job whose *logs* these are; *endings* where its supervisors saw them."""
    endings = endings or Endings()
    stories = _stories(logs)
    for ended, number in endings.signals.items():
        stories.setdefault((ended, ""), []).extend(_of_signal(ended, number, rules))
    best = {key: min(seen, key=lambda one: one.order) for key, seen in stories.items() if seen}
    failed = [one for one in best.values() if one.role in (Role.CAUSE, Role.SYMPTOM)]
    echoes = [one for one in best.values() if one.role is Role.ECHO]
    waiting = tuple(sorted({one.rank for one in echoes if one.rank is not None}))
    if failed:
        own = [one for one in failed if one.rank is not None and one.rank == endings.first]
        root = min(own or failed, key=lambda one: one.order)
        made = _of_sighting(root, [one for one in failed if one is not root])
    elif echoes:
        made = _of_echoes(stories, logs, rules, endings.first)
    else:
        made = _of_rest(list(best.values()), endings)
    first = made.first_rank
    return replace(made, waiting=waiting, ending=endings.of_rank.get(first) if first is not None else None)


def _stories(logs: Sequence[Log]) -> "dict[_Key, list[_Seen]]":
    """Return what was found, by the process that wrote it."""
    rank_of_pid: "dict[tuple[Optional[str], int], int]" = {}
    for log in logs:
        for pid, of_pid in log.scan.rank_of_pid.items():
            rank_of_pid.setdefault((log.place.host, pid), of_pid)
    stories: "dict[_Key, list[_Seen]]" = defaultdict(list)
    for log in logs:
        for sighting in _without_repeated_exceptions(log.scan.sightings):
            rank = _rank_of(sighting, log, rank_of_pid)
            role = sighting.rule.role
            if sighting.traceback is not None and not sighting.traceback.tells_cause:
                role = Role.WRAPPER
            key: _Key = (rank, "" if rank is not None else f"{log.name}{sighting.section}")
            stories[key].append(_Seen(sighting, log.name, rank, role))
    return stories


def _rank_of(sighting: Sighting, log: Log, rank_of_pid: "Mapping[tuple[Optional[str], int], int]") -> Optional[int]:
    if log.place.rank is not None and not sighting.section:
        return log.place.rank
    if sighting.rank is not None:
        return sighting.rank
    for pid in (sighting.pid, log.place.pid):
        if pid is not None and (log.place.host, pid) in rank_of_pid:
            return rank_of_pid[log.place.host, pid]
    return None if sighting.section else _rank_of_log(log)


def _rank_of_log(log: Log) -> Optional[int]:
    """Return the rank whose log it is, by its path or because no other wrote into it."""
    if log.place.rank is None and len(log.scan.ranks) == 1:
        return next(iter(log.scan.ranks))
    return log.place.rank


def _without_repeated_exceptions(sightings: "Iterable[Sighting]") -> "list[Sighting]":
    """Leave out a traceback whose exception a rule knows, and give the rule's sighting the traceback."""
    kept: "list[Sighting]" = []
    pending: "dict[str, Sighting]" = {}
    for sighting in sightings:
        if sighting.traceback is not None:
            words = f"{sighting.traceback.type}: {sighting.traceback.message}".rstrip(": ")[:_OWN_WORDS]
            pending[words] = sighting
            kept.append(sighting)
            continue
        told = next((one for words, one in pending.items() if words in sighting.text), None)
        if told is None:
            kept.append(sighting)
            continue
        kept.append(replace(sighting, details={**sighting.details, **_frame(told)}))
        kept = [one for one in kept if one is not told]
    return kept


def _frame(sighting: Sighting) -> "dict[str, str]":
    place = sighting.traceback.place if sighting.traceback is not None else None
    return {"frame": place} if place else {}


def _of_signal(rank: int, number: int, rules: Rules) -> "list[_Seen]":
    code = _SIGNALS.get(number)
    if code is None:
        return []
    sighting = Sighting(rules[code], 0, "", {}, rank, None, None)
    return [_Seen(sighting, "", rank, Role.SYMPTOM)]


def _of_sighting(root: _Seen, others: "Sequence[_Seen]") -> Explanation:
    sighting = root.sighting
    place = sighting.details.get("frame")
    if sighting.traceback is not None:
        place = sighting.traceback.place
    others = sorted(others, key=lambda one: one.order)
    also = {one.sighting.rule.code: (one.sighting.rule, one.sighting.details, one.rank) for one in reversed(others)}
    also.pop(sighting.rule.code, None)
    return Explanation(
        rule=sighting.rule,
        details=sighting.details,
        category=sighting.rule.category,
        retriable=sighting.rule.retriable,
        first_rank=root.rank,
        place=place,
        evidence=_evidence([root, *(one for one in others if one.sighting.rule is sighting.rule)]),
        also=tuple(reversed(also.values())),
    )


def _of_rest(best: "Sequence[_Seen]", endings: Endings) -> Explanation:
    """Explain by what only says that something failed: the cause is unknown, unless a program's exception says it."""
    ordered = sorted(best, key=lambda one: (one.rank != endings.first, one.order))
    for one in ordered:
        if one.sighting.traceback is not None:
            return _of_sighting(one, [])
    if not ordered:
        return Explanation(None, {}, None, None, endings.first)
    root = ordered[0]
    first = root.rank if endings.first is None else endings.first
    return Explanation(root.sighting.rule, root.sighting.details, None, None, first, evidence=_evidence(ordered))


def _evidence(seen: "Iterable[_Seen]") -> "tuple[Evidence, ...]":
    """Return the first line of each rank and rule."""
    found: "dict[tuple[object, ...], Evidence]" = {}
    for one in seen:
        if one.log:
            key = (one.rank if one.rank is not None else one.log, one.sighting.rule.code)
            text, at = one.sighting.text, one.sighting.at
            found.setdefault(key, Evidence(one.rank, one.log, one.sighting.offset, text, at))
    return tuple(found.values())[:_MOST_EVIDENCE]


# ── ranks that only waited ─────────────────────────────────────────────────────────────────────────────────


def _of_echoes(
    stories: "Mapping[_Key, list[_Seen]]", logs: Sequence[Log], rules: Rules, first: Optional[int]
) -> Explanation:
    """Explain a job of which all that spoke only waited for another."""
    echoes = sorted(
        (one for seen in stories.values() for one in seen if one.role is Role.ECHO),
        key=lambda one: (one.sighting.at is None, one.sighting.at or 0.0, one.sighting.offset),
    )
    suspects = _suspects(stories, logs)
    if first is not None and (first, "") not in stories:
        suspects = (first,)  # it ended without a word, and the others waited for it
    made = _calls_differ(echoes, rules) or (None if suspects else _late(echoes, rules))
    if made is not None:
        return made
    telling = sorted(
        echoes, key=lambda one: _TELLING.index(one.sighting.rule.code) if one.sighting.rule.code in _TELLING else 9
    )
    root = telling[0]
    names_it = [one for one in telling if one.sighting.rule is root.sighting.rule and one.sighting.details]
    details = next((one.sighting.details for one in names_it), root.sighting.details)
    place = details.get("peer_place") or details.get("lost_place")
    if suspects:
        details = {**details, "peer": ", ".join(map(str, suspects[:8]))}
    return Explanation(
        rule=root.sighting.rule,
        details=details,
        category=root.sighting.rule.category,
        retriable=root.sighting.rule.retriable,
        first_rank=suspects[0] if len(suspects) == 1 else None,
        suspects=suspects,
        place=f"device {place.partition('/')[2]} of {place.partition('/')[0]}" if place and "/" in place else place,
        evidence=_evidence([*names_it[:2], *(one for one in echoes if one not in names_it[:2])]),
    )


def _numbers(text: str) -> "list[int]":
    return [number for number in map(int, re.findall(r"\d{1,16}", text)) if number < _MOST_WORLD]


def _suspects(stories: "Mapping[_Key, list[_Seen]]", logs: Sequence[Log]) -> "tuple[int, ...]":
    """Return the ranks that the others waited for, and that are not known to have waited themselves."""
    world = max((log.scan.world_size or 0 for log in logs), default=0)
    awaited_by: "dict[_Key, set[int]]" = defaultdict(set)
    missing: "set[int]" = set()
    for key, seen in stories.items():
        connected: "set[int]" = set()
        for one in seen:
            details = one.sighting.details
            for name in ("peer", "peer_of_link", "peer_of_ucx", "aborted", "node"):
                if name in details:
                    awaited_by[key].add(int(details[name]))
            for name in ("peers", "nodes"):
                missing.update(_numbers(details.get(name, "")))
            connected.update(_numbers(details.get("connected", "")))
            world = max(world, *_numbers(details.get("size", "")), 0)
        if connected and world <= _MOST_WORLD:
            missing.update(set(range(world)) - connected)
    if missing:
        return tuple(sorted(missing))
    awaited = set().union(*awaited_by.values()) if awaited_by else set()
    waiting = {rank for rank, _ in stories if rank is not None}
    silent = {rank for rank in map(_rank_of_log, logs) if rank is not None} - waiting
    return tuple(sorted(awaited - waiting) or sorted(awaited - {rank for rank, _ in awaited_by}) or sorted(silent))


def _calls_differ(echoes: "Sequence[_Seen]", rules: Rules) -> Optional[Explanation]:
    """Explain ranks that wait for one another in different collectives of one group."""
    calls: "dict[str, dict[int, tuple[str, _Seen]]]" = defaultdict(dict)
    for one in echoes:
        name, _, group = one.sighting.details.get("tag", "").partition("_")
        if one.rank is not None and group:
            calls[group].setdefault(one.rank, (name, one))
    for of_rank in calls.values():
        names = {name for name, _ in of_rank.values()}
        if len(names) > 1:
            spelled = ", ".join(f"rank {rank} {name}" for rank, (name, _) in sorted(of_rank.items())[:8])
            return _made(rules["collectives-differ"], {"calls": spelled}, [one for _, one in of_rank.values()], None)
    return None


def _late(echoes: "Sequence[_Seen]", rules: Rules) -> Optional[Explanation]:
    """Explain ranks that all gave up waiting in the same collective, the last of them long after the first."""
    gave_up: "dict[str, dict[int, _Seen]]" = defaultdict(dict)
    for one in echoes:
        tag = one.sighting.details.get("tag")
        if tag and one.rank is not None and one.sighting.at is not None:
            gave_up[tag].setdefault(one.rank, one)
    for of_rank in gave_up.values():
        order = sorted(of_rank.values(), key=lambda one: one.sighting.at or 0.0)
        seconds = (order[-1].sighting.at or 0.0) - (order[0].sighting.at or 0.0)
        if len(order) > 1 and seconds >= _LATE_S:
            details = {"peer": str(order[-1].rank), "seconds": f"{seconds:.0f}"}
            return _made(rules["rank-late"], details, [order[-1], order[0]], order[-1].rank)
    return None


def _made(rule: Rule, details: "dict[str, str]", seen: "Sequence[_Seen]", rank: Optional[int]) -> Explanation:
    return Explanation(rule, details, rule.category, rule.retriable, rank, evidence=_evidence(seen))
