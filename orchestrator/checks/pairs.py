"""All-reduces over pairs of hosts: who pairs with whom, and who is slow or broken by the figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

from orchestrator.checks.facts import Fault
from orchestrator.findings import Severity

CHECK = "collective"
LARGE_BYTES = 4 << 20
_SLOW = 2.0  # times the median, of large ones
_LATE, _LATE_S = 4.0, 0.001  # times the median, of small ones; and more than what a busy host may add
_MOST_ROUNDS = 4


@dataclass(frozen=True)
class Measured:
    """What two hosts made of all-reduces: the best time of several. *problem*: why there is none."""

    hosts: tuple[str, str]
    round: int
    small_s: Optional[float] = None  # one element
    large_s: Optional[float] = None  # LARGE_BYTES
    problem: Optional[str] = None

    @property
    def bytes_per_s(self) -> Optional[float]:
        return LARGE_BYTES / self.large_s if self.large_s else None


def median(values: "Sequence[float]") -> Optional[float]:
    """Return the middle one; of two in the middle the lower, so that one slow pair of two stands out."""
    return sorted(values)[(len(values) - 1) // 2] if values else None


def usual(measured: "Sequence[Measured]") -> "tuple[Optional[float], Optional[float]]":
    """Return the median times of small and of large all-reduces."""
    return (
        median([one.small_s for one in measured if one.small_s is not None]),
        median([one.large_s for one in measured if one.large_s is not None]),
    )


def suspects(measured: "Sequence[Measured]") -> "set[tuple[str, str]]":
    """Return the pairs that never had a good time, in the order of their names."""
    small, large = usual(measured)
    tried = {_pair(*one.hosts) for one in measured}
    return tried - {_pair(*one.hosts) for one in measured if _is_good(one, small, large)}


def _is_good(one: Measured, small: Optional[float], large: Optional[float]) -> bool:
    if one.small_s is None or one.large_s is None or small is None or large is None:
        return False
    return one.large_s <= _SLOW * large and one.small_s <= max(_LATE * small, small + _LATE_S)


def next_round(hosts: "Sequence[str]", measured: "Sequence[Measured]") -> "list[tuple[str, str]]":
    """Return the pairs to measure next, no host in two of them; none: all is known that can be.

    At first each host has a neighbour. Then those of suspect pairs, and who was left over, are paired with hosts of
    good ones; a pair whose hosts are both good with others is measured once more.
    """
    if not measured:
        return list(zip(hosts[::2], hosts[1::2]))
    if max(one.round for one in measured) >= _MOST_ROUNDS:
        return []
    bad, good = suspects(measured), _good(measured)
    tried = [_pair(*one.hosts) for one in measured]
    unclear = [name for name in hosts if name not in good and len(_with_good(name, bad, good)) == 0]
    chosen = [pair for pair in sorted(bad) if set(pair) <= good and tried.count(pair) == 1]
    busy = {name for pair in chosen for name in pair}
    for name in unclear:
        others = [other for other in hosts if other in good] or [other for other in unclear if other != name]
        free = [other for other in others if other not in busy and _pair(name, other) not in tried]
        if free and name not in busy:
            chosen.append((name, free[0]))
            busy.update(chosen[-1])
    return chosen


def faults(hosts: "Sequence[str]", measured: "Sequence[Measured]") -> "Iterator[Fault]":
    """Yield the hosts that are slow or broken with good ones too, then links between hosts that are both good."""
    bad, good = suspects(measured), _good(measured)
    small, large = usual(measured)
    newest = {_pair(*one.hosts): one for one in measured}
    named = [name for name in hosts if name not in good and _with_good(name, bad, good)]
    for name in named:
        pairs = [newest[pair] for pair in sorted(bad) if name in pair and good.intersection(pair)]
        yield _fault(name, "all-reduce with any host", pairs, small, large)
    for pair in sorted(bad):
        if not set(named).intersection(pair):
            way = "over the link to" if set(pair) <= good else "with"
            yield _fault(pair[0], f"all-reduce {way} {pair[1]}", [newest[pair]], small, large)


def _good(measured: "Sequence[Measured]") -> "set[str]":
    """Return the hosts of pairs that had a good time."""
    bad = suspects(measured)
    return {name for one in measured if _pair(*one.hosts) not in bad for name in one.hosts}


def _with_good(name: str, bad: "set[tuple[str, str]]", good: "set[str]") -> "list[tuple[str, str]]":
    return [pair for pair in bad if name in pair and good.intersection(pair)]


def _pair(one: str, other: str) -> "tuple[str, str]":
    return (one, other) if one < other else (other, one)


def _fault(host: str, what: str, pairs: "Sequence[Measured]", small: Optional[float], large: Optional[float]) -> Fault:
    broken = next((one for one in pairs if one.problem is not None), None)
    if broken is not None:
        return Fault(
            host, CHECK, "all-reduce-broken", Severity.ERROR, f"{what} fails: {broken.problem}",
            "see what `ascendrun explain` makes of the words, and to firewalls and routes between them",
        )  # fmt: skip
    told = "; ".join(_times(one, host) for one in pairs)
    return Fault(
        host, CHECK, "all-reduce-slow", Severity.ERROR,
        f"{what} is slow: {told}; the medians are {spell(large)} and {spell(small)}",
        "see to its cable, switch port, network driver and MTU, and to what else runs there",
        ("ip -s link; ethtool $(ip -o route get 192.0.2.1 | sed 's/.* dev \\([^ ]*\\).*/\\1/')",),
    )  # fmt: skip


def _times(one: Measured, host: str) -> str:
    with_whom = next(name for name in one.hosts if name != host)
    return f"{spell(one.large_s)} for {LARGE_BYTES >> 20} MiB and {spell(one.small_s)} for one element with {with_whom}"


def spell(seconds: Optional[float]) -> str:
    """Return a time as `1.3 ms`, or `-`."""
    if seconds is None:
        return "-"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"
