"""When a quiet rank hangs: limits learned from the run itself. Pure: time and what was seen are passed in.

A rank is quiet while it tells no step and no other fact; its phase says what may take its time. The longest silence
that any rank of this host ended by itself, phase by phase, is the measure: eight times as long is a hang, but never
less than a floor. A false alarm on a healthy run is worse than a late one, so little is believed of what was not seen:

- before the first silence of a phase is over, and in a first epoch whose length nobody knows (an evaluation may follow
  any step), only a very long one counts;
- a rank that uses the CPU may compile, evaluate or write: it has longer than one that does nothing at all;
- a rank that waits for another is no hang: none is told while any rank of this host is within its own limit;
- ranks of other hosts cannot be seen from here: where there are any, what goes on there is given time.

A program that never told a step is judged by idleness alone: there is no telling work from an endless loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Set

START, STEP, EPOCH_END, FIRST_EPOCH = "start", "step", "epoch end", "first epoch"

_FACTOR = 8.0
_MOST_ABOVE_S = 3600.0  # a silence of hours was seen: an hour more is enough
_ENOUGH = {"step": 10, "epoch end": 2}  # silences that must have been seen before their limit is believed; else one
_SUSPENDED_S = 15.0  # less than the 30 s after which MindSpore's CPU ring gives up, and blames whoever waited
_COMPILES = 10.0  # times a limit set by hand, for a rank that computes before its first step


class Limits(NamedTuple):
    """Seconds of silence after which a rank hangs."""

    idle_s: float  # that did nothing at all
    busy_s: float  # that used the CPU


_SURE = Limits(60.0, 60.0)  # between two steps, in a program that says when it does something else
_SEEN = Limits(300.0, 900.0)  # in a phase whose end was seen before
_UNSEEN = Limits(1800.0, 3600.0)


@dataclass(frozen=True)
class Look:
    """What was seen of a rank since the look before."""

    told: bool = False  # a fact or a step
    logged: bool = False  # its log grew
    busy: Optional[bool] = None  # it used the CPU, or waited for a disk; None: not known
    suspended: bool = False  # stopped by a signal
    phase: Optional[str] = None  # what it says it does; None: it makes steps
    step: Mapping[str, Any] = field(default_factory=dict)  # its newest


@dataclass(frozen=True)
class Hang:
    rank: int
    phase: str
    quiet_s: float
    limit_s: float
    suspended: bool


@dataclass
class _Rank:
    """The silence of one rank."""

    quiet_s: float = 0.0
    idle_s: float = 0.0  # of it, since it last did anything
    suspended_s: float = 0.0
    phase: str = START
    tells: bool = False  # has made a step or told a fact
    steps: bool = False  # has made a step
    declares: bool = False  # says what it does besides steps
    epoch: Any = None
    step: Any = None
    epoch_length: Optional[float] = None  # steps
    been_through: Set[str] = field(default_factory=set)  # phases that it has ended itself


class Hangs:
    """Follows the ranks of one host; what it says is a function of the looks it was given."""

    def __init__(self, *, hang_after_s: Optional[float] = None, ranks_elsewhere: bool = False) -> None:
        """*hang_after_s*: the limit that the user set, 0 for none at all; None: learned."""
        self._hang_after_s = hang_after_s
        self._elsewhere = ranks_elsewhere
        self._ranks: Dict[int, _Rank] = {}
        self._longest_s: Dict[str, float] = {}
        self._count: Dict[str, int] = {}

    def look(self, elapsed_s: float, looks: Mapping[int, Look]) -> List[Hang]:
        """Take in what was seen of the ranks that run, *elapsed_s* after the last look; return those that hang."""
        for gone in set(self._ranks) - set(looks):
            del self._ranks[gone]
        for rank, seen in looks.items():
            self._follow(self._ranks.setdefault(rank, _Rank()), elapsed_s, seen)
        return [] if self._hang_after_s == 0 else self._judge()

    def quiet_s(self) -> float:
        """Return how long all ranks that tell of themselves have been quiet; 0 where none does."""
        return min((one.quiet_s for one in self._ranks.values() if one.steps), default=0.0)

    def limits(self, rank: int) -> Limits:
        """Return the limits of *rank* in the phase it is in."""
        one = self._ranks[rank]
        if self._hang_after_s is not None:
            before = 1.0 if one.steps else _COMPILES
            return Limits(self._hang_after_s, self._hang_after_s * before)
        if not one.tells:
            return Limits(_UNSEEN.busy_s, math.inf)
        if not self._is_known(one.phase):
            return _UNSEEN
        longest_s = self._longest_s[one.phase]
        sure = one.declares and one.phase == STEP and not self._elsewhere
        learned_s = min(_FACTOR * longest_s, longest_s + _MOST_ABOVE_S)
        floor = _SURE if sure else _SEEN
        if one.phase not in one.been_through:  # it may have to compile what another found in its cache
            floor = Limits(floor.idle_s, _UNSEEN.busy_s)
        return Limits(max(floor.idle_s, learned_s), max(floor.busy_s, learned_s))

    def _is_known(self, phase: str) -> bool:
        if phase in (START, FIRST_EPOCH):
            return False
        return self._count.get(phase, 0) >= _ENOUGH.get(phase, 1)

    def _follow(self, one: _Rank, elapsed_s: float, seen: Look) -> None:
        one.quiet_s += elapsed_s
        one.suspended_s = one.suspended_s + elapsed_s if seen.suspended else 0.0
        does_nothing = seen.busy is False and not seen.logged
        one.idle_s = one.idle_s + elapsed_s if does_nothing or seen.suspended else 0.0
        if not one.tells and seen.logged:
            one.quiet_s = 0.0  # all that there is to go by
        if not seen.told:
            return
        self._count[one.phase] = self._count.get(one.phase, 0) + 1
        one.been_through.add(one.phase)
        self._longest_s[one.phase] = max(self._longest_s.get(one.phase, 0.0), one.quiet_s)
        one.quiet_s = one.idle_s = 0.0
        one.tells = True
        one.declares = one.declares or seen.phase is not None
        one.steps = one.steps or bool(seen.step)
        one.phase = _place(one, seen.step) if seen.phase is None else seen.phase

    def _judge(self) -> List[Hang]:
        suspended = [rank for rank, one in self._ranks.items() if one.suspended_s >= self._suspended_limit_s()]
        if suspended and len(suspended) < len(self._ranks):
            return [self._hang(rank, self._ranks[rank].suspended_s) for rank in suspended]
        judged = [rank for rank, one in self._ranks.items() if one.tells] or list(self._ranks)
        over = [rank for rank in judged if self._is_over(rank)]
        if len(over) < len(judged):
            # The others go on. Ranks that need one another would not, for long.
            over = [rank for rank in over if self._ranks[rank].quiet_s > _UNSEEN.busy_s]
        return [self._hang(rank, self._ranks[rank].quiet_s) for rank in over]

    def _suspended_limit_s(self) -> float:
        return _SUSPENDED_S if self._hang_after_s is None else min(_SUSPENDED_S, self._hang_after_s)

    def _is_over(self, rank: int) -> bool:
        one, limits = self._ranks[rank], self.limits(rank)
        return one.idle_s > limits.idle_s or one.quiet_s > limits.busy_s

    def _hang(self, rank: int, quiet_s: float) -> Hang:
        one, limits = self._ranks[rank], self.limits(rank)
        suspended = one.suspended_s > 0
        if suspended and one.suspended_s >= self._suspended_limit_s():
            limit_s = self._suspended_limit_s()
        else:
            limit_s = limits.idle_s if one.idle_s > limits.idle_s else limits.busy_s
        return Hang(rank, one.phase, round(quiet_s, 1), round(limit_s, 1), suspended)


def _place(one: _Rank, step: Mapping[str, Any]) -> str:
    """Return where *step* lies: inside of an epoch, at its end, or nobody knows."""
    epoch, number, steps = step.get("epoch"), step.get("step"), step.get("steps")
    if not isinstance(number, (int, float)):
        return FIRST_EPOCH
    if isinstance(steps, (int, float)):
        return STEP if number < steps else EPOCH_END
    if one.epoch is not None and epoch is not None and epoch != one.epoch and isinstance(one.step, (int, float)):
        one.epoch_length = max(one.epoch_length or 0.0, one.step)
    one.epoch, one.step = epoch, number
    if one.epoch_length is None:
        return FIRST_EPOCH
    return STEP if number < one.epoch_length else EPOCH_END
