"""Begin the next attempt of a run: on hosts that answer, from the newest checkpoint that is whole."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from orchestrator import attempts, checkpoints
from orchestrator.attempts import Order
from orchestrator.checkpoints import Checkpoint
from orchestrator.errors import HostError
from orchestrator.farhosts import FarHosts, Line
from orchestrator.inventory import HostEntry
from orchestrator.launch import devices_of
from orchestrator.plan import RunPlan
from orchestrator.policy import Attempt, share_out
from orchestrator.runstate import RankPhase, RunState
from orchestrator.store import Run
from orchestrator.transport.fanout import Fleet, Roads, open_all
from orchestrator.verdict import ASKED_TO_END, verdict


@dataclass(frozen=True)
class Ready:
    """The next attempt, recorded and not begun."""

    run: Run
    far: FarHosts
    prepared: attempts.Prepared
    fleet: Fleet
    order: Order
    resume: "Optional[tuple[Checkpoint, ...]]"  # None: from the beginning

    def begin(self) -> "dict[str, Line]":
        """Start it; return, by host, the line over which it tells its events. Raises HostError; nothing runs then."""
        try:
            return attempts.begin(self.fleet, self.prepared, self.order)
        except BaseException:
            hang_up(self.fleet)
            raise


class NotAnswering(HostError):
    """Hosts that the run waits for cannot be reached."""


def choose(
    inventory: "Sequence[HostEntry]", used: "Sequence[str]", lost: "Collection[str]", on_host_lost: str
) -> "list[HostEntry]":
    """Return the hosts of the next attempt, in order; a spare takes the place of the host it replaces.

    *used* names the hosts of the attempt before, *lost* those given up, now or earlier. Raises HostError where that
    leaves too few.
    """
    by_name = {entry.name: entry for entry in inventory}
    spares = [entry for entry in inventory if entry.name not in used and entry.name not in lost]
    chosen = []
    for name in used:
        if name not in lost:
            chosen.append(by_name[name])
        elif on_host_lost == "replace":
            if not spares:
                raise HostError(f"{name} is lost, and no spare host is left to replace it")
            chosen.append(spares.pop(0))
    if not chosen:
        raise HostError(f"all hosts are lost: {', '.join(sorted(lost))}")
    return chosen


def can_do_without(run: Run, far: FarHosts, host: "Optional[str]", lost: "Collection[str]") -> bool:
    """Tell whether the next attempt may leave out a host that answers, as if it were lost."""
    spec = run.plan.spec.restart
    if spec is None or spec.on_host_lost == "wait" or host is None:
        return False
    try:
        choose(far.inventory, [one.name for one in far.hosts], {*lost, host}, spec.on_host_lost)
    except HostError:
        return False
    return True


def prepare(
    run: Run,
    far: FarHosts,
    attempt: int,
    known: "Sequence[Checkpoint]",
    lost: "set[str]",
    roads: Roads,
) -> Ready:
    """Choose hosts, look at them again, plan, bring the checkpoint, and record. *lost* gains hosts found to be so.

    Raises NotAnswering where hosts are waited for, HostError or UserError where this attempt cannot be.
    """
    spec = run.plan.spec.restart
    assert spec is not None, "the caller restarts no other"
    order = _without_resume(Order.again(run, far))
    used = [host.name for host in far.hosts]
    while True:
        entries = choose(order.inventory, used, lost, spec.on_host_lost)
        if len(entries) < len(used):
            entries, order = _shrunk(entries, order, run.plan, known[-1].global_batch if known else None)
        fleet = open_all(entries, roads=roads)
        if not fleet.errors:
            break
        hang_up(fleet)
        if spec.on_host_lost == "wait":
            raise NotAnswering("; ".join(map(str, fleet.errors.values())))
        lost.update(fleet.errors)
    try:
        prepared = attempts.prepare(fleet, order, attempt)
        ranks = [(rank.rank_id, rank.host) for rank in prepared.plan.ranks]
        copies = checkpoints.copies_of(run.run_dir, known, (*far.earlier, *far.hosts))
        transports = {one.entry.name: one.transport for one in fleet.connected}
        with tempfile.TemporaryDirectory(prefix=".resume-", dir=run.run_dir.root) as scratch:
            paths, chosen = checkpoints.settle(
                checkpoints.newest_first(known), ranks, prepared.far.by_name(), transports, copies, Path(scratch)
            )
        prepared = replace(prepared, plan=prepared.plan.resuming(paths))
        next_far = replace(prepared.far, earlier=(*far.earlier, *far.hosts))
        next_run = Run(prepared.plan, run.run_dir)
        attempts.record(next_run, next_far)
    except BaseException:
        hang_up(fleet)
        raise
    return Ready(next_run, next_far, prepared, fleet, order, chosen)


def _shrunk(
    entries: "list[HostEntry]", order: Order, plan: RunPlan, global_batch: Optional[int]
) -> "tuple[list[HostEntry], Order]":
    """Return the hosts and the order of an attempt with fewer ranks, as many as can share the global batch evenly."""
    first = [rank.device_id for rank in plan.ranks if rank.host == plan.ranks[0].host]
    hosts, devices = share_out(len(entries), len(first), global_batch)
    if devices < len(first):
        asked = devices_of(order.spec, order.request)
        ids = ",".join(f"{one}-{one}" for one in first[:devices])
        order = replace(order, request=replace(order.request, devices=str(devices) if asked.isdigit() else ids))
    return entries[:hosts], order


def _without_resume(order: Order) -> Order:
    """Return an order whose job does not begin anew from where it once began: what a user said by hand would win."""
    if order.spec.config.get("resume") is None:
        return order
    return replace(order, spec=replace(order.spec, config={**order.spec.config, "resume": None}))


def hang_up(fleet: Fleet) -> None:
    """End the connections of a fleet, and leave the roads that others use."""
    for connected in fleet.connected:
        connected.transport.close()


def ending(state: RunState) -> Attempt:
    """Return how the attempt ended that *state* tells of."""
    written = sum(one.get("attempt") == state.attempt for one in state.checkpoints)
    if state.lost_hosts:
        host = state.lost_hosts[0]
        return Attempt("host_lost", True, host, None, written, f"host {host} does not answer any more")
    failed = [rank for rank in state.ranks if rank.phase in (RankPhase.FAILED, RankPhase.LOST)]
    if failed and all(rank.code == ASKED_TO_END for rank in failed):
        return Attempt("preempted", True, failed[0].host, None, written, "somebody else asked its ranks to end")
    found = verdict(state)
    if found is None:
        ended = f"its ranks were ended by {state.stopped_by}" if state.stopped_by else "its ranks did not all succeed"
        return Attempt("unknown", True, None, None, written, ended)
    return Attempt(found.cause.value, found.retriable, found.host, found.rank, written, found.sentence)


def failed_to_begin(exc: Exception) -> Attempt:
    """Return the attempt that could not begin. What the user gave cannot be wrong now: hosts have changed."""
    return Attempt("unknown", True, None, None, 0, str(exc))


def attempt_of(told: "Mapping[str, Any]") -> Attempt:
    """Return what an `attempt_ended` event says."""
    return Attempt(
        str(told.get("cause", "unknown")),
        bool(told.get("retriable")),
        told.get("host"),
        told.get("rank"),
        int(told.get("checkpoints", 0)),
        str(told.get("sentence", "")),
    )
