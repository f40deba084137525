"""Which of ranks that stand still is the one that the others wait for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from orchestrator.runstate import RankState


def odd_one_out(ranks: Sequence[RankState]) -> "Optional[tuple[RankState, str, float]]":
    """Return the rank that the others wait for, why, and how sure that is; None where none stands out."""
    known = [(rank, rank.stacks or {}) for rank in ranks]
    suspended = [rank for rank, facts in known if facts.get("state") == "T" or (rank.hang or {}).get("suspended")]
    if suspended and len(suspended) < max(2, len(ranks)):
        return suspended[0], "it is stopped by a signal (SIGSTOP)", 0.95
    if len(ranks) < 2:
        return None
    waits = "the others wait in a collective" if len(ranks) > 2 else "the other one waits in a collective"
    elsewhere = [rank for rank, facts in known if facts.get("in_collective") is False]
    waiting = [rank for rank, facts in known if facts.get("in_collective") is True]
    if len(elsewhere) == 1 and waiting:
        return elsewhere[0], f"{waits}{where(elsewhere[0], ' while it is')}", 0.95
    rest = elsewhere if elsewhere and waiting else [rank for rank, _ in known]
    places = {rank.rank_id: (rank.latest.get("epoch") or 0, rank.latest["step"]) for rank in rest if has_step(rank)}
    behind = [rank for rank in rest if places and places.get(rank.rank_id) == min(places.values())]
    if len(behind) == 1 and len(places) == len(rest) and len(rest) > 1:
        return behind[0], f"it is behind the others, at step {behind[0].latest['step']}", 0.8
    for fact, reason in (
        (lambda rank: tuple((rank.stacks or {}).get("frames", ())), "its stack is unlike all others'"),
        (lambda rank: (rank.stacks or {}).get("busy"), "it uses the CPU unlike all others"),
        (lambda rank: rank.program_phase, "it is in another phase than all others"),
    ):
        odd = _minority(rest, [fact(rank) for rank in rest])
        if odd is not None:
            return odd, reason + where(odd), 0.7
    busy = [rank for rank in rest if (rank.stacks or {}).get("busy") is True]
    if len(busy) == 1 and len(rest) == 2:
        return busy[0], f"it computes, the other one waits{where(busy[0])}", 0.7
    return None


def _minority(ranks: Sequence[RankState], values: Sequence[object]) -> Optional[RankState]:
    """Return the one rank whose value differs, where there are three at least and all others' are equal and known."""
    if len(ranks) < 3 or None in values or () in values or len(set(values)) != 2:
        return None
    return next((rank for rank, value in zip(ranks, values) if values.count(value) == 1), None)


def has_step(rank: RankState) -> bool:
    """Tell whether a rank told where it is, in numbers."""
    latest = rank.latest
    return all(isinstance(value, (int, float)) for value in (latest.get("step"), latest.get("epoch") or 0))


def where(rank: RankState, before: str = ",") -> str:
    """Return the innermost frame of a rank's stack, for the end of a sentence; "" where it is not known."""
    frames = (rank.stacks or {}).get("frames") or ()
    return f"{before} at {frames[0]}" if frames else ""
