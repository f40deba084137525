"""Verdict: which rank a run failed of, and why, from the folded events of all its hosts. Pure.

Of eight ranks that die within a second, seven felt the collective break; of eight that hang, seven wait for one. What
is believed, from the strongest: a device that was reported ill, where a rank on it ended as it would of that; what a
rank says of itself (an exception, a signal that was not ours); then the order in which ranks of one host ended, by its
own clock. Times of two hosts are never compared; that one's end was *told*
first is a hint, and lowers the confidence.
"""

from __future__ import annotations

import enum
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

from orchestrator.clues import Clue, Kind, clue_of
from orchestrator.runstate import Outcome, RankPhase, RankState, RunState
from orchestrator.stalled import has_step, odd_one_out, where
from orchestrator.supervisor.process import signal_name

ASKED_TO_END = 75  # the exit code of a rank that was asked to end and saved a checkpoint first (EX_TEMPFAIL)
_SURE = 0.9
_TOGETHER_S = 0.05  # ends of two ranks of one host this close are told apart by chance
_LOOKED_EVERY_S = 2.0  # at a disk, at least
_LAST_STEP_S = 10.0  # peers of a rank that ended too early make a step more at most


class Cause(str, enum.Enum):
    """Why a run failed."""

    DEVICE = "device"
    EXIT_CODE = "exit_code"
    SIGNAL = "signal"
    EXCEPTION = "exception"
    IMPORT_ERROR = "import_error"
    USER_ERROR = "user_error"
    ENDED_EARLY = "ended_early"
    HANG = "hang"
    HANG_IN_COLLECTIVE = "hang_in_collective"
    OUT_OF_MEMORY = "out_of_memory"
    NAN_LOSS = "nan_loss"
    DISK_FULL = "disk_full"
    HOST_LOST = "host_lost"
    LOST = "lost"
    PORT_TAKEN = "port_taken"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


# Tried again as it is, the run would fail in the same way.
_IN_VAIN = {Cause.IMPORT_ERROR, Cause.USER_ERROR, Cause.NAN_LOSS, Cause.DISK_FULL, Cause.STOPPED}
# What a device that fails makes of the ranks on it. What says a cause of its own, it is not to blame for.
_OF_DEVICES = {
    Cause.EXIT_CODE,
    Cause.SIGNAL,
    Cause.EXCEPTION,
    Cause.HANG,
    Cause.HANG_IN_COLLECTIVE,
    Cause.LOST,
    Cause.UNKNOWN,
}
_CAUSE_OF = {
    Kind.OUT_OF_MEMORY: Cause.OUT_OF_MEMORY,
    Kind.DISK_FULL: Cause.DISK_FULL,
    Kind.PORT_TAKEN: Cause.PORT_TAKEN,
    Kind.IMPORT_ERROR: Cause.IMPORT_ERROR,
    Kind.USER_ERROR: Cause.USER_ERROR,
    Kind.NAN: Cause.NAN_LOSS,
    Kind.EXCEPTION: Cause.EXCEPTION,
}


@dataclass(frozen=True)
class Verdict:
    cause: Cause
    rank: Optional[int]  # None: it is no single rank's
    host: Optional[str]
    sentence: str  # one line for people
    confidence: float  # 0..1
    evidence: tuple[str, ...]
    retriable: bool  # whether the same run may go well another time


def verdict(state: RunState) -> Optional[Verdict]:
    """Return why a run failed or was stopped; None for one that goes on or has succeeded."""
    if state.outcome is Outcome.STOPPED:
        return _verdict(Cause.STOPPED, None, f"stopped by {state.stopped_by or 'a request'}", 1.0)
    if state.outcome is not Outcome.FAILED:
        return None
    return _of_devices(_of_ranks(state), state)


def _of_devices(found: Verdict, state: RunState) -> Verdict:
    """Return the verdict on ranks as it is with what is known of their devices."""
    faults = state.conditions.faults
    if found.cause not in _OF_DEVICES or not faults:
        return found
    there = [one for one in faults if one.host == found.host and one.rank in (found.rank, None)]
    suspects = there or (list(faults) if found.confidence < _SURE else [])
    if not there and len({one.place for one in suspects}) != 1:
        heard = tuple(f"{one.place} was reported: {one.sentence()}" for one in faults)
        return replace(found, evidence=(*found.evidence, *heard))
    ill = suspects[-1]  # the newest is the worst
    return replace(
        found,
        cause=Cause.DEVICE,
        rank=found.rank if ill.rank is None else ill.rank,
        host=ill.host,
        sentence=f"{ill.place}: {ill.sentence()}; {found.sentence}",
        confidence=max(found.confidence, _SURE) if there else 0.7,
    )


def _of_ranks(state: RunState) -> Verdict:
    endings = sorted((_Ending(rank, state) for rank in state.ranks if rank.ended_at is not None), key=_Ending.order)
    for own in (ending for ending in endings if ending.weight >= _BARE):
        return _of_ending(own, endings, state)
    return (
        _of_hang(state)
        or next((_of_ending(ending, endings, state) for ending in endings if ending.weight == _AFTER_STOP), None)
        or _of_peers(endings, state)
        or _last_resort(endings, state)
    )


# ── ranks that ended ─────────────────────────────────────────────────────────────────────────────────────────

# Signals that no framework sends itself because a peer is gone.
_HARD = {signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}
# How much the end of a rank says of itself.
_NOTHING, _ECHO, _AFTER_STOP, _BARE, _OWN = range(5)


class _Ending:
    """How a rank ended, and how much that says."""

    def __init__(self, rank: RankState, state: RunState) -> None:
        self.rank = rank
        made_steps = "step" in rank.latest
        self.clue: Optional[Clue] = clue_of([*rank.tail, *rank.errors], code=rank.code, made_steps=made_steps)
        self.by_itself = rank.phase in (RankPhase.FAILED, RankPhase.LOST)
        self.weight = self._weigh()
        self.told = rank.ended_seq or 0
        self.disk_was_full = _was_full(rank, state)

    def _weigh(self) -> int:
        rank = self.rank
        if rank.phase is RankPhase.SUCCEEDED or (rank.code == ASKED_TO_END and not self.by_itself):
            return _NOTHING
        if rank.out_of_memory is not None and rank.code != 0:
            return _OWN
        if self.by_itself and rank.signal in _HARD:
            return _OWN  # whatever it had logged before
        if self.clue is not None and self.clue.kind is Kind.PEER:
            return _ECHO
        if not self.by_itself:
            return _NOTHING if self.clue is None else _AFTER_STOP
        sure = self.clue is not None or rank.error or rank.signal is not None or rank.phase is RankPhase.LOST
        return _OWN if sure else _BARE

    def order(self) -> "tuple[int, int]":
        return -self.weight, self.told


def _was_full(rank: RankState, state: RunState) -> bool:
    """Tell whether a rank ended while the disk of its host was full; that is looked at each second."""
    since, until = state.conditions.full_disks.get(rank.host, (None, None))
    if since is None or rank.ended_mono is None:
        return False
    return since - _LOOKED_EVERY_S <= rank.ended_mono <= (until if until is not None else rank.ended_mono)


def _of_ending(own: _Ending, endings: Sequence[_Ending], state: RunState) -> Verdict:
    """Return the verdict on a rank that ended by a cause of its own."""
    rank = own.rank
    cause, words = _cause(own)
    evidence = [own.clue.line] if own.clue is not None else []
    if rank.out_of_memory is not None:
        evidence.append(str(rank.out_of_memory.get("evidence")))
    rivals = [one for one in endings if one is not own and one.weight == own.weight]
    alike = [one for one in rivals if _signature(one) == _signature(own)]
    confidence = {_OWN: 0.95, _BARE: 0.8}.get(own.weight, 0.7)
    if alike:
        evidence.append(f"the same on rank {_numbers(one.rank for one in alike)}")
    for rival in rivals:
        if rival in alike:
            continue
        if rival.rank.host != rank.host:
            evidence.append(
                f"rank {rival.rank.rank_id} on {rival.rank.host} ended by itself too; its end was told later"
            )
            confidence = min(confidence, 0.5)
        elif (rival.rank.ended_mono or 0.0) - (rank.ended_mono or 0.0) < _TOGETHER_S:
            evidence.append(f"rank {rival.rank.rank_id} ended at the same time: {rival.rank.ending()}")
            confidence = min(confidence, 0.6)
    felt = [one.rank for one in endings if one.weight == _ECHO]
    if felt:
        evidence.append(f"rank {_numbers(felt)} only felt a peer go")
    return _verdict(cause, rank, f"rank {rank.rank_id}, {words}", confidence, evidence)


def _cause(own: _Ending) -> "tuple[Cause, str]":
    rank, clue, how = own.rank, own.clue, own.rank.ending()
    if rank.out_of_memory is not None:
        return Cause.OUT_OF_MEMORY, f"{how}: out of memory"
    if rank.phase is RankPhase.LOST:
        return Cause.LOST, "gone, and nobody recorded how it ended"
    if rank.error:
        return Cause.USER_ERROR, how
    if rank.signal is None and rank.nan_loss is not None and (clue is None or clue.kind in (Kind.NAN, Kind.EXCEPTION)):
        place = f"epoch {rank.nan_loss.get('epoch', '-')}, step {rank.nan_loss.get('step', '-')}"
        return Cause.NAN_LOSS, f"{how}: its loss is no number since {place}"
    if clue is not None and clue.kind in _CAUSE_OF:
        return _CAUSE_OF[clue.kind], f"{how}: {_short(clue.line)}"
    if own.disk_was_full and rank.signal is None:
        return Cause.DISK_FULL, f"{how}: it could not say why, for the disk was full"
    if rank.signal is not None:
        return Cause.SIGNAL, how
    if rank.code == ASKED_TO_END:
        return Cause.STOPPED, f"{how}: asked to end by something else than ascendrun"
    return (Cause.USER_ERROR if rank.code in (126, 127) else Cause.EXIT_CODE), how


def _signature(ending: _Ending) -> "tuple[object, ...]":
    clue = ending.clue
    return (ending.rank.code, ending.rank.signal, clue.kind if clue else None, clue.line if clue else None)


# ── ranks that hang ──────────────────────────────────────────────────────────────────────────────────────────


def _of_hang(state: RunState) -> Optional[Verdict]:
    hanging = [rank for rank in state.ranks if rank.hang is not None]
    if not hanging:
        return None
    quiet = max(hanging, key=lambda rank: _number(rank.hang, "quiet_s"))
    assert quiet.hang is not None, "it was chosen by it"
    limit_s = _number(quiet.hang, "limit_s")
    silence = f"rank {_numbers(hanging)} quiet for {_number(quiet.hang, 'quiet_s'):.0f} s"
    evidence = [silence + (f" in the phase {quiet.hang.get('phase')}, limit {limit_s:.0f} s" if limit_s else "")]
    early = _ended_early(state, quiet, _number(quiet.hang, "since_mono") - _LAST_STEP_S)
    if early is not None:
        return _early(early, evidence, 0.85)
    found = odd_one_out([rank for rank in state.ranks if rank.ended_at is None or rank.stacks or rank.hang])
    if found is not None:
        rank, reason, confidence = found
        in_collective = (rank.stacks or {}).get("in_collective") is True
        cause = Cause.HANG_IN_COLLECTIVE if in_collective else Cause.HANG
        return _verdict(cause, rank, f"rank {rank.rank_id} hangs: {reason}", confidence, evidence)
    if len(hanging) == 1:
        return _verdict(Cause.HANG, quiet, f"rank {quiet.rank_id} hangs{where(quiet)}", 0.8, evidence)
    if any((rank.stacks or {}).get("in_collective") for rank in hanging):
        sentence = f"rank {_numbers(hanging)} hang in a collective, and none is seen to be missing there"
        return _verdict(Cause.HANG_IN_COLLECTIVE, None, sentence, 0.5, evidence)
    return _verdict(Cause.HANG, quiet, f"rank {_numbers(hanging)} hang{where(quiet)}", 0.4, evidence)


# ── what others felt ─────────────────────────────────────────────────────────────────────────────────────────


def _of_peers(endings: Sequence[_Ending], state: RunState) -> Optional[Verdict]:
    """Return the verdict where those that failed only felt another one go."""
    echoes = [ending for ending in endings if ending.weight == _ECHO and ending.by_itself]
    if not echoes:
        return None
    felt = f"rank {_numbers(echo.rank for echo in echoes)} felt a peer go"
    evidence = [felt] + [echo.clue.line for echo in echoes[:1] if echo.clue is not None]
    for host, reason in state.silent_hosts.items():
        return _verdict(Cause.HOST_LOST, None, f"{host} cannot be reached: {reason}", 0.8, evidence, host=host)
    first = echoes[0].rank
    early = _ended_early(state, first, 0.0)
    if early is not None:
        return _early(early, evidence, 0.8)
    others = [rank for rank in state.ranks if rank.rank_id not in {echo.rank.rank_id for echo in echoes}]
    found = odd_one_out([rank for rank in others if rank.phase is not RankPhase.SUCCEEDED])
    if found is not None:
        return _verdict(Cause.HANG, found[0], f"rank {found[0].rank_id} hung: {found[1]}", found[2] - 0.1, evidence)
    silent = [rank for rank in others if rank.phase is not RankPhase.SUCCEEDED]
    if len(silent) == 1:
        evidence.append(f"rank {silent[0].rank_id} is the only one that felt nothing")
        elsewhere = (silent[0].stacks or {}).get("in_collective") is False
        sentence = f"rank {silent[0].rank_id} hung{where(silent[0])}"
        return _verdict(Cause.HANG, silent[0], sentence, 0.9 if elsewhere else 0.7, evidence)
    return None


def _ended_early(state: RunState, peer: RankState, since_mono: float) -> Optional[RankState]:
    """Return the rank that ended with 0 while *peer* still needed it, not before *since_mono* of that one's clock.

    Ranks that are through end some seconds apart; one whose peer made more steps without it was not missed.
    """
    until_mono = float("inf") if peer.ended_mono is None else peer.ended_mono
    ended = []
    for rank in state.ranks:
        if rank.phase is not RankPhase.SUCCEEDED or rank.ended_mono is None or _is_far_ahead(peer, rank):
            continue
        if rank.host != peer.host or since_mono <= rank.ended_mono <= until_mono:
            ended.append(rank)
    return min(ended, key=lambda rank: rank.ended_seq or 0, default=None)


def _is_far_ahead(rank: RankState, other: RankState) -> bool:
    """Tell whether *rank* is known to have made two steps more than *other*."""
    if not (has_step(rank) and has_step(other)) or rank.latest.get("epoch") != other.latest.get("epoch"):
        return False
    return bool(rank.latest["step"] > other.latest["step"] + 1)


def _early(rank: RankState, evidence: "list[str]", confidence: float) -> Verdict:
    place = f", after step {rank.latest['step']}" if has_step(rank) else ""
    sentence = f"rank {rank.rank_id} ended too early with exit code 0{place}; the others waited for it in vain"
    return _verdict(Cause.ENDED_EARLY, rank, sentence, confidence, evidence)


def _last_resort(endings: Sequence[_Ending], state: RunState) -> Verdict:
    if state.scheduler_failure is not None:
        return _of_scheduler(state, state.scheduler_failure)
    for host, reason in state.silent_hosts.items():
        return _verdict(Cause.HOST_LOST, None, f"{host} cannot be reached: {reason}", 0.7, (), host=host)
    first = next((one.rank for one in endings if one.by_itself), None)
    if first is None:
        return _verdict(Cause.UNKNOWN, None, "nobody recorded why", 0.1)
    evidence = [one.clue.line for one in endings if one.rank is first and one.clue is not None]
    sentence = f"rank {first.rank_id}, {first.ending()}: it lost its peers, and none of them says why"
    return _verdict(Cause.UNKNOWN, first, sentence, 0.3, evidence)


def _of_scheduler(state: RunState, data: Mapping[str, Any]) -> Verdict:
    """Return the verdict on a run whose scheduler ended before any rank."""
    clue = clue_of([*data.get("tail", ()), *data.get("errors", ())])
    evidence = [clue.line] if clue is not None else []
    if clue is not None and clue.kind is Kind.PEER and (found := odd_one_out(state.ranks)) is not None:
        return _verdict(Cause.HANG, found[0], f"rank {found[0].rank_id} hung: {found[1]}", found[2] - 0.1, evidence)
    by_signal = isinstance(data.get("signal"), int)
    how = signal_name(data["signal"]) if by_signal else f"exit code {data.get('code')}"
    cause = Cause.SIGNAL if by_signal else Cause.EXIT_CODE
    if clue is not None:
        cause = _CAUSE_OF.get(clue.kind, cause)
    said = f": {_short(clue.line)}" if clue is not None else ""
    return _verdict(cause, None, f"MindSpore's scheduler, {how}{said}", 0.8, evidence)


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────


def _verdict(
    cause: Cause,
    rank: Optional[RankState],
    sentence: str,
    confidence: float,
    evidence: Sequence[str] = (),
    *,
    host: Optional[str] = None,
) -> Verdict:
    number, of_rank = (None, host) if rank is None else (rank.rank_id, rank.host or None)
    return Verdict(cause, number, of_rank, sentence, round(confidence, 2), tuple(evidence), cause not in _IN_VAIN)


def _numbers(ranks: Any) -> str:
    """Return `0, 3`, or `0-6` where they follow one another."""
    ids = sorted(rank.rank_id for rank in ranks)
    if len(ids) > 2 and ids[-1] - ids[0] == len(ids) - 1:
        return f"{ids[0]}-{ids[-1]}"
    return ", ".join(map(str, ids))


def _number(data: "Optional[Mapping[str, Any]]", key: str) -> float:
    value = (data or {}).get(key)
    return float(value) if isinstance(value, (int, float)) else 0.0


def _short(line: str, most: int = 160) -> str:
    return line if len(line) <= most else line[: most - 1] + "…"
