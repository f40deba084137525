"""Whether a run that failed is started again. Pure: what happened is passed in, and no clock is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Optional

from orchestrator.jobspec import RestartSpec

DEVICE = "device"  # the cause of an attempt that failed of a device that was reported ill
ASKED = "asked"  # the cause of an attempt that was ended for the next, which counts for nothing


@dataclass(frozen=True)
class Attempt:
    """One try of a run, ended: why, and how far it came."""

    cause: str  # as verdict.py names them
    retriable: bool  # whether the cause is one that another try may not meet again
    host: Optional[str]  # where the cause lies; None: not on one host
    rank: Optional[int]
    checkpoints: int  # whole ones that it wrote
    sentence: str = ""  # what happened, for people

    @property
    def signature(self) -> "tuple[str, Optional[str], Optional[int]]":
        return self.cause, self.host, self.rank


@dataclass(frozen=True)
class Decision:
    """Start again after *wait_s* seconds, or let the run be over; and why."""

    restart: bool
    reason: str
    wait_s: float = 0.0
    avoid: Optional[str] = None  # a host to go on without, although it answers


def decide(spec: RestartSpec, attempts: "Sequence[Attempt]", *, dispensable: bool = False) -> Decision:
    """Return what becomes of a run after its *attempts*, oldest first; the last one failed.

    *dispensable*: by `on_host_lost` the run can go on without the host of the last attempt's failure.
    """
    last = attempts[-1]
    restarts = len(attempts) - 1
    if spec.causes is not None and last.cause not in spec.causes:
        return Decision(False, f"{last.cause} is not among the causes that the job restarts for")
    if spec.causes is None and not last.retriable:
        return Decision(False, f"{last.cause}: another try would end the same way")
    if restarts >= spec.max_restarts:
        return Decision(
            False, f"all {spec.max_restarts} restarts are used up" if restarts else "no restarts are allowed"
        )
    fruitless = _last_run(attempts, lambda attempt: attempt.checkpoints == 0)
    if fruitless >= spec.without_checkpoint:
        return Decision(False, f"{fruitless} attempts in a row brought no new checkpoint")
    same = _last_run(attempts, lambda attempt: attempt.signature == last.signature)
    if last.host is not None and same >= spec.same_failure:
        where = last.host if last.rank is None else f"rank {last.rank} on {last.host}"
        return Decision(False, f"{last.cause} of {where} {same} times in a row")
    wait_s = min(spec.most_backoff_s, spec.backoff_s * 2 ** max(0, fruitless - 1))
    reason = f"restart {restarts + 1} of {spec.max_restarts}"
    if last.cause != DEVICE or last.host is None:
        return Decision(True, reason, wait_s)
    if dispensable:
        return Decision(True, f"{reason}, without {last.host}", wait_s, last.host)
    why = "on_host_lost is `wait`" if spec.on_host_lost == "wait" else "there is no other for it"
    return Decision(True, f"{reason}, on {last.host} again: {why}", wait_s)


def share_out(hosts: int, devices: int, batch: Optional[int]) -> "tuple[int, int]":
    """Return on how many of *hosts* to go on with how many of *devices* each: the most ranks that can share *batch*.

    *batch*: what all ranks together take in a step, which stays as it was; None: not known, and all are taken.
    """
    if batch is None:
        return hosts, devices
    choices = ((h, d) for h in range(1, hosts + 1) for d in range(1, devices + 1) if batch % (h * d) == 0)
    return max(choices, key=lambda choice: (choice[0] * choice[1], choice[0]))


def _last_run(attempts: "Sequence[Attempt]", holds: "Callable[[Attempt], bool]") -> int:
    """Return of how many attempts, counted back from the last, *holds* is true."""
    count = 0
    for attempt in reversed(attempts):
        if not holds(attempt):
            break
        count += 1
    return count
