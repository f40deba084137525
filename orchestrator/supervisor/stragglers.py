"""Which rank is slower than the others of its host, for many steps. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

_SLOW, _FAST = 1.5, 1.2  # times the median of the others: slow above the one, no more so below the other
_MANY = 20  # steps
_NEWEST = 0.2  # weight of the newest step in the mean


class Change(NamedTuple):
    """A rank became a straggler, or is none any more."""

    rank: int
    slow: bool
    step_s: float
    median_s: float


@dataclass
class _Rank:
    place: Any = None
    step_s: float = 0.0
    steps: int = 0  # since it is as fast as it is now
    slow: bool = False


class Stragglers:
    """Compares how long steps take, as ranks tell it."""

    def __init__(self) -> None:
        self._ranks: Dict[int, _Rank] = {}

    def look(self, steps: Mapping[int, Mapping[str, Any]]) -> List[Change]:
        """Take in the newest step of each rank; return what changed."""
        stepped = {}
        for rank, step in steps.items():
            took_s, place = step.get("step_s"), (step.get("epoch"), step.get("step"))
            if not isinstance(took_s, (int, float)) or took_s <= 0:
                continue
            one = self._ranks.setdefault(rank, _Rank(step_s=took_s))
            if place != one.place:
                stepped[rank] = _between(one.place, place)
                one.place = place
                one.step_s += _NEWEST * (took_s - one.step_s)
        return [change for rank, count in stepped.items() if (change := self._judge(rank, count)) is not None]

    def _judge(self, rank: int, count: int) -> Optional[Change]:
        one = self._ranks[rank]
        others = [other.step_s for number, other in self._ranks.items() if number != rank]
        if not others:
            return None
        median_s = sorted(others)[len(others) // 2]
        turning = one.step_s < _FAST * median_s if one.slow else one.step_s > _SLOW * median_s
        one.steps = one.steps + count if turning else 0
        if one.steps < _MANY:
            return None
        one.slow, one.steps = not one.slow, 0
        return Change(rank, one.slow, round(one.step_s, 4), round(median_s, 4))


def _between(before: Any, now: Any) -> int:
    """Return how many steps lie between two places; 1 where an epoch began meanwhile."""
    try:
        return max(1, now[1] - before[1]) if before[0] == now[0] else 1
    except TypeError:
        return 1
