"""The supervisor's loop: wait for an event, look, act."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import time
from typing import Any, Collection, Dict, List, Optional, Set

from orchestrator.supervisor import events
from orchestrator.supervisor.hostplan import HostPlan
from orchestrator.supervisor.journal import Journal
from orchestrator.supervisor.keeper import start_keeper
from orchestrator.supervisor.lease import Lease
from orchestrator.supervisor.linux import Watcher
from orchestrator.supervisor.machine import listen
from orchestrator.supervisor.process import Identity, Place
from orchestrator.supervisor.progress import last_lines, telling_lines
from orchestrator.supervisor.rundir import RunDir
from orchestrator.supervisor.sweep import leftovers, sweep
from orchestrator.supervisor.watched import Intent, Stop, Watched

TICK_S = 1.0


class Supervisor:
    """Runs one host plan to its end. `run()` returns when no process of the run is left."""

    def __init__(self, run_dir: RunDir, plan: HostPlan, journal: Journal) -> None:
        self.run_dir = run_dir
        self.plan = plan
        self.journal = journal
        self.processes = [Watched(process) for process in plan.processes]
        self.intent: Optional[Intent] = None
        self.stop: Optional[Stop] = None
        self._here = Place.here()
        self._lease = Lease(run_dir.watched, plan.lease_s) if plan.lease_s is not None else None
        self._terminated = False
        self._listener: Optional[socket.socket] = None
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watcher = Watcher()
        self._started_at = time.monotonic()
        self._next_tick = self._started_at + TICK_S

    # ── the life of a run ──────────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        """Start the processes, or adopt those of a supervisor that was killed.

        Raises OSError where the scheduler's port is taken: nothing is started then.
        """
        self._handle_signals()
        self._watcher.add(self.run_dir.processes)
        self._watcher.add(self.run_dir.requests)
        if self.journal.past:
            self._begin_watching()
            self._adopt()
            return
        if self.plan.scheduler_on_demand:
            self._listener = listen(self.plan.scheduler_on_demand)
        self.journal.append(events.RUN_STARTED, {"pid": os.getpid()})
        gc.freeze()  # keepers share our pages for as long as nobody writes to them
        on_demand = self.plan.scheduler_on_demand is not None
        self._start([watched for watched in self.processes if watched.plan.rank is not None or not on_demand])
        self._begin_watching()

    def _begin_watching(self) -> None:
        from orchestrator.supervisor.watching import Watching  # 12 ms that ranks need not wait for

        self.watching = Watching(self.run_dir, self.plan, self.journal)

    def run(self) -> None:
        """Go on until every process has ended; then write `run_finished`."""
        while True:
            self._note_starts_and_ends()
            self._heed_requests()
            if self.intent is not None and self.watching.stacks_taken():
                self._carry_out(self.intent)
            self._advance_stop()
            if time.monotonic() >= self._next_tick:
                self._tick()
            settled = all(not watched.is_running() and self._is_settled(watched) for watched in self.processes)
            if settled and self.intent is None and not self.watching.vitals.is_looking():
                break
            self._wait()
        self.watching.vitals.close()
        self._sweep()
        self.watching.telemetry.read()
        self.watching.telemetry.write()
        self.journal.append(events.RUN_FINISHED)
        while not self.journal.flush():
            self._watcher.wait(TICK_S)  # the disk is full: the end of the run must still be told

    def _wait(self) -> None:
        until = self._next_tick if self.stop is None or self.stop.killed else min(self._next_tick, self.stop.deadline)
        fds = [self._wake_read] + ([self._listener.fileno()] if self._listener else [])
        self._watcher.wait(until - time.monotonic(), *fds)
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass  # it was not a signal that woke us
        if self._listener is not None:
            self._start_scheduler_if_asked()

    def _tick(self) -> None:
        now = time.monotonic()
        self._next_tick = now + TICK_S
        self._note_losses()
        # One whose end a full disk keeps from being recorded does not hang.
        running = {rank: one for rank, one in self._running_ranks().items() if one.is_alive()}
        hanging = self.watching.tick(running)
        if self._lease is not None and self._lease.is_over() and not self._is_ending():
            by = f"the lease: nobody has watched for {self._lease.lease_s:g} s"
            self._tell_stopping(Intent("requested", self.plan.grace_s, by=by))
        if hanging and not self._is_ending():
            self.watching.tell_hangs(hanging)
            self.watching.vitals.rank_failed(hanging[0].rank)
            self._intend(Intent("hang", self.plan.grace_of_failure_s, hanging[0].rank))
        self.journal.flush()

    def _running_ranks(self) -> Dict[int, Identity]:
        return {
            watched.plan.rank: watched.identity
            for watched in self.processes
            if watched.plan.rank is not None and watched.identity is not None and not watched.ended
        }

    # ── starting ───────────────────────────────────────────────────────────────────────────────────

    def _handle_signals(self) -> None:
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGCHLD, _reap)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def _on_term(self, number: int, frame: object) -> None:
        self._terminated = True

    def _start(self, chosen: "List[Watched]") -> None:
        try:
            pid = start_keeper(self.run_dir, [watched.plan for watched in chosen], self.plan.run_id)
        except OSError as exc:  # no process or memory left for this user
            for watched in chosen:
                watched.ended = True
                reason = f"cannot start a process: {exc.strerror}"
                self._tell_end(watched, {"code": None, "signal": None, "error": reason})
            return
        for watched in chosen:
            watched.keeper = Identity.of(pid)

    def _start_scheduler_if_asked(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        connection.close()  # the rank tries again until the scheduler is there
        self._listener.close()
        self._listener = None
        if self.stop is None:
            self._start([watched for watched in self.processes if watched.plan.rank is None])

    def _adopt(self) -> None:
        """Take over from what the keepers wrote; the journal says what was already told."""
        past = self.journal.past
        previous = [
            event.data.get("pid") for event in past if event.kind in (events.RUN_STARTED, events.SUPERVISOR_ADOPTED)
        ]
        self.journal.append(
            events.SUPERVISOR_ADOPTED, {"pid": os.getpid(), "previous_pid": previous[-1] if previous else None}
        )
        told = {(event.kind, event.data.get("process")) for event in past}
        for watched in self.processes:
            name = watched.plan.name
            if (events.PROCESS_STARTED, name) in told:
                self._learn_identity(watched)
            watched.ended = bool({(events.PROCESS_EXITED, name), (events.PROCESS_LOST, name)} & told)
        scheduler = self.plan.scheduler
        if self.plan.scheduler_on_demand and scheduler and not self.run_dir.started(scheduler.name).exists():
            try:
                self._listener = listen(self.plan.scheduler_on_demand)
            except OSError:
                self._listener = None  # somebody took the port meanwhile: no reason to abandon the ranks
        self._note_starts_and_ends()
        self._note_losses()
        stopping = [event for event in past if event.kind == events.STOPPING]
        if stopping and self.stop is None:
            self._begin_stop(float(stopping[-1].data.get("grace_s", self.plan.grace_s)))
        elif self.stop is None and any(event.kind == events.HANG for event in past):
            self._intend(Intent("hang", self.plan.grace_of_failure_s))  # the one before us was killed over it

    # ── noticing ───────────────────────────────────────────────────────────────────────────────────

    def _is_settled(self, watched: Watched) -> bool:
        """Tell whether a process that is not running will not start any more."""
        if watched.ended:
            return True
        return watched.plan.rank is None and watched.keeper is None  # a scheduler that nobody asked for

    def _learn_identity(self, watched: Watched) -> bool:
        known = watched.learn_identity(self.run_dir, self._here)
        if known and watched.plan.rank is not None and watched.identity is not None:
            self.watching.started(watched.plan.rank, watched.identity)
        return known

    def _note_starts_and_ends(self) -> None:
        endings = []
        for watched in self.processes:
            if watched.ended:
                continue
            if watched.identity is None and self._learn_identity(watched):
                self._tell_start(watched)
            ending = watched.read_ending(self.run_dir)
            if ending is not None:
                endings.append((watched, ending))
        # Several may have ended since the last look: the first of them is the one that the others fell over.
        for watched, ending in sorted(endings, key=lambda pair: pair[1].get("mono", 0.0)):
            watched.ended = True
            self._tell_end(watched, ending)
        ranks_ended = all(watched.ended for watched in self.processes if watched.plan.rank is not None)
        scheduler_left = any(watched.is_running() for watched in self.processes)
        if ranks_ended and scheduler_left and not self._is_ending():
            self._begin_stop(self.plan.grace_s)  # it has no one left to serve

    def _tell_start(self, watched: Watched) -> None:
        assert watched.identity is not None, "the caller has just learnt it"
        self.journal.append(
            events.PROCESS_STARTED,
            {"process": watched.plan.name, "pid": watched.identity.pid},
            rank=watched.plan.rank,
        )
        if self.stop is not None:  # it slipped in while all others were told to end
            watched.signal(signal.SIGKILL if self.stop.killed else signal.SIGTERM)

    def _tell_end(self, watched: Watched, ending: Dict[str, Any]) -> None:
        rank = watched.plan.rank
        if rank is not None:
            by_us = self.stop is not None and self.stop.killed
            self.watching.ended(rank, watched.identity, ending, by_us=by_us)
        data = {"process": watched.plan.name, **ending}
        if ending.get("code") != 0:
            data.update(self._last_words(watched))
        self.journal.append(events.PROCESS_EXITED, data, rank=rank)
        if ending.get("code") == 0 or self._is_ending():
            return
        if rank is not None:
            self._rank_failed(rank)
        elif not any(one.ended for one in self.processes if one.plan.rank is not None):
            self._intend(Intent("scheduler_failed", self.plan.grace_of_failure_s))  # no rank lives long without it

    def _last_words(self, watched: Watched) -> Dict[str, Any]:
        log = self.run_dir.log(watched.plan.folder, watched.plan.log)
        return {"tail": last_lines(log), "errors": telling_lines(log)}

    def _rank_failed(self, rank: int) -> None:
        self.watching.vitals.rank_failed(rank)
        intent = Intent("rank_failed", self.plan.grace_of_failure_s, rank)
        if self.watching.peers_waited():
            self._intend(intent)  # it may have waited in vain for one that runs
        else:
            self._tell_stopping(intent)

    def _note_losses(self) -> None:
        """Find processes that ended although their keeper could not say how (it was killed as well)."""
        just_begun = time.monotonic() - self._started_at < TICK_S  # a keeper may still be about to write
        for watched in self.processes:
            if watched.ended or self._is_settled(watched) or (watched.identity is None and just_begun):
                continue
            if not any(one is not None and one.is_alive() for one in (watched.keeper, watched.identity)):
                self._note_starts_and_ends()  # it may have written its last word just now
                if watched.ended:
                    continue
                watched.ended = True
                self.journal.append(
                    events.PROCESS_LOST,
                    {"process": watched.plan.name, **self._last_words(watched)},
                    rank=watched.plan.rank,
                )
                if watched.plan.rank is not None and not self._is_ending():
                    self._rank_failed(watched.plan.rank)

    def _heed_requests(self) -> None:
        if self._terminated and not self._is_ending():
            self._tell_stopping(Intent("requested", self.plan.grace_s, by="SIGTERM to the supervisor"))
        try:
            request = json.loads(self.run_dir.stop_request.read_bytes())
            grace_s = float(request["grace_s"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError):
            grace_s, request = self.plan.grace_s, {}
        if self.intent is not None:
            if grace_s < self.intent.grace_s:  # somebody has no time for stacks
                self.intent.grace_s = grace_s
                self._carry_out(self.intent)
        elif self.stop is None:
            intent = Intent("requested", grace_s, by=str(request.get("by", "unknown")))
            if request.get("stacks"):
                self._intend(intent)
            else:
                self._tell_stopping(intent)
        elif grace_s < self.stop.grace_s:  # a second request may shorten the grace, never lengthen it
            self.stop.grace_s = grace_s
            self.stop.deadline = min(self.stop.deadline, time.monotonic() + grace_s)

    # ── stopping ───────────────────────────────────────────────────────────────────────────────────

    def _is_ending(self) -> bool:
        return self.stop is not None or self.intent is not None

    def _intend(self, intent: Intent) -> None:
        """End all ranks once their stacks are taken."""
        self.intent = intent
        self.watching.begin_stacks(self._running_ranks())

    def _carry_out(self, intent: Intent) -> None:
        self.intent = None
        unknown = self.watching.tell_stacks()
        intent.aborted = unknown if intent.cause == "hang" else []
        self._tell_stopping(intent)

    def _tell_stopping(self, intent: Intent) -> None:
        data: Dict[str, Any] = {"cause": intent.cause, "grace_s": intent.grace_s}
        data.update({"by": intent.by} if intent.by is not None else {})
        data.update({"aborted": intent.aborted} if intent.aborted else {})
        self.journal.append(events.STOPPING, data, rank=intent.rank)
        for rank, identity in self._running_ranks().items():
            if rank in intent.aborted:
                self.watching.abort(rank, identity)
        self._begin_stop(intent.grace_s, intent.aborted)

    def _begin_stop(self, grace_s: float, aborted: Collection[int] = ()) -> None:
        self.stop = Stop(grace_s, time.monotonic() + grace_s)
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for watched in self.processes:
            if watched.is_running() and watched.plan.rank not in aborted:
                watched.signal(signal.SIGTERM)
                watched.signal(signal.SIGCONT)  # a stopped process cannot end

    def _advance_stop(self) -> None:
        if self.stop is None or self.stop.killed or time.monotonic() < self.stop.deadline:
            return
        self.stop.killed = True
        running = [watched for watched in self.processes if watched.is_running() and watched.identity is not None]
        if running:
            self.journal.append(events.KILLING, {"processes": [watched.plan.name for watched in running]})
        for watched in running:
            watched.signal(signal.SIGKILL)

    def _sweep(self) -> None:
        keepers = {watched.keeper.pid for watched in self.processes if watched.keeper and watched.keeper.is_alive()}
        found = leftovers(self.plan.run_id, keepers)
        if not found:
            return
        self.journal.append(events.SWEPT, {"pids": sorted(found)})
        unasked = time.monotonic() + self.plan.grace_s

        def find() -> Set[int]:
            self._heed_requests()  # somebody may have lost patience
            return leftovers(self.plan.run_id, keepers)

        left = sweep(find, lambda: unasked if self.stop is None else min(unasked, self.stop.deadline))
        if left:
            self.journal.append(events.UNKILLABLE, {"pids": sorted(left)})


def _reap(number: int, frame: object) -> None:
    """Collect keepers that ended; what they had to say is in their files."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
