"""The controller of a run on far hosts: follows their journals into one, and passes on what one must know of another.

It is to the run folder on this machine what a supervisor is to that of a host: a process of its own, one at a time,
that appends to `journal.jsonl` and heeds `requests/`. Whoever watches needs not know which of the two it is. The first
is whoever launched the run, on the connections that it has; killed, it gets a successor, which goes on from the last
event of each host that the journal has.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, Optional

from orchestrator import checkpoints, policy, restarts
from orchestrator.copier import Copier
from orchestrator.errors import AscendrunError
from orchestrator.farhosts import FarHosts, Line
from orchestrator.following import LONGEST_WAIT_S, Followed, Lost, Missing, News, Reached, follow
from orchestrator.jobspec import RestartSpec
from orchestrator.plan import NO_USE_S
from orchestrator.runstate import RankPhase, fold, initial_state
from orchestrator.store import Run
from orchestrator.supervisor import events, ownership
from orchestrator.supervisor.events import Event
from orchestrator.supervisor.journal import Journal
from orchestrator.supervisor.linux import Watcher, set_title
from orchestrator.supervisor.rundir import RunDir
from orchestrator.transport.fanout import Roads

_LOOK_EVERY_S = 0.5
_ENDS = (events.PROCESS_EXITED, events.PROCESS_LOST)


def control(run_dir: RunDir, ready: "Callable[[], None]", roads: Optional[Roads] = None) -> int:
    """Control the run in *run_dir* to its end; call *ready* once it is under way. As `supervisor.main.supervise`."""
    try:
        controller = Controller.of(run_dir, roads)
    except (OSError, AscendrunError) as exc:
        print(exc, file=sys.stderr, flush=True)
        return 1
    return 0 if controller is None else controller.go(ready)


class Controller:
    """Follows each host in a thread; only the main thread decides and writes."""

    @classmethod
    def of(cls, run_dir: RunDir, roads: Optional[Roads]) -> "Optional[Controller]":
        """Take the run in *run_dir*, and tell so; None where another process has it. Raises OSError, AscendrunError."""
        if ownership.take(run_dir) is None:
            return None
        far = FarHosts.of(run_dir)
        assert far is not None, "a run without far hosts has a supervisor"
        journal = Journal(run_dir.journal, socket.gethostname())
        return cls(Run.read(run_dir.root), far, journal, roads or far.roads())

    def __init__(self, run: Run, far: FarHosts, journal: Journal, roads: Roads) -> None:
        self.run = run
        self.far = far
        self.roads = roads
        self.journal = journal
        self.state = initial_state(run.plan)
        self.followed: "dict[str, Followed]" = {}
        self._news: "queue.SimpleQueue[tuple[Followed, News]]" = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._watcher = Watcher()
        self._watcher.add(run.run_dir.requests)
        self._terminated = threading.Event()
        self._stopping: Optional[tuple[float, str]] = None
        self._waited_for: Optional[str] = None  # why hosts that the run waits for do not answer
        self._asked_to_stop = False  # by a person, not by a failure
        self._asked_to_restart: Optional[str] = None  # by whom
        self._lost: "set[str]" = set()  # hosts given up, in any attempt
        self._copier = Copier(run.run_dir, self._copies_wanted())
        self._new_attempt()
        for event in journal.past:
            self._remember(event)
        kind = events.SUPERVISOR_ADOPTED if journal.past else events.RUN_STARTED
        self._tell(kind, {"hosts": sorted(self.followed)})

    def go(self, ready: "Callable[[], None]", lines: "Optional[Mapping[str, Line]]" = None) -> int:
        """Control the run to its end; call *ready* first. *lines*, by name of the host: which follow it already."""
        self._use(lines or {})
        set_title(f"ascendrun: controller of {self.run.plan.run_id}")
        ready()
        try:
            self.run_to_end()
        except Exception:
            traceback.print_exc()
            return 1
        return 0

    def run_to_end(self) -> None:
        """Go on, through attempts, until every host has told its last event; then write `run_finished`."""
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self._terminated.set())
        while True:
            if not self.state.earlier or self.state.earlier[-1].get("attempt") != self.state.attempt:
                self._attempt_to_end()
            if not self._restart():
                break
        self._copier.close()
        self._tell(events.RUN_FINISHED)
        while not self.journal.flush():
            time.sleep(_LOOK_EVERY_S)  # the disk is full: the end of the run must still be told

    def _attempt_to_end(self) -> None:
        for one in self.followed.values():
            if not one.finished:
                threading.Thread(target=follow, args=(one, self.roads, self._hear), daemon=True).start()
        while not all(one.finished or one.lost for one in self.followed.values()):
            self._look_around(_LOOK_EVERY_S)
            self._give_up_lost_hosts()

    def _look_around(self, wait_s: float) -> None:
        """Take in what there is of news and requests, after waiting for some."""
        self._watcher.wait(wait_s, self._wake_read)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        while not self._news.empty():
            self._take(*self._news.get())
        if self._terminated.is_set() and not self._asked_to_stop:
            self._asked_to_stop = True
            self._stop_all(self.run.plan.spec.grace_s, "SIGTERM to the controller")
        self._heed_requests()
        self.journal.flush()

    def _tell(self, kind: str, data: "Optional[Mapping[str, Any]]" = None) -> None:
        self.state = fold(self.state, [self.journal.append(kind, data)])

    # ── attempts ───────────────────────────────────────────────────────────────────────────────────────────

    def _new_attempt(self) -> None:
        """Know nothing yet of the hosts of an attempt."""
        ranks = [(rank.rank_id, rank.host) for rank in self.run.plan.ranks]
        self.followed = {
            host.name: Followed(host, frozenset(rank for rank, name in ranks if name == host.name))
            for host in self.far.hosts
        }
        self._stopping = None

    def _use(self, lines: "Mapping[str, Line]") -> None:
        """Take lines, by name of the host, that follow it already."""
        for name, line in lines.items():
            self.followed[name].line = line

    def _restart(self) -> bool:
        """Decide what becomes of an attempt that is over; tell whether another one has begun."""
        spec = self.run.plan.spec.restart
        succeeded = all(rank.phase is RankPhase.SUCCEEDED for rank in self.state.ranks)
        done = succeeded and not self.state.lost_hosts and self._asked_to_restart is None
        if spec is None or self._asked_to_stop or done:
            return False
        if not self.state.earlier or self.state.earlier[-1].get("attempt") != self.state.attempt:
            self._end_attempt(restarts.ending(self.state), spec)
        while self.state.earlier[-1].get("restart"):
            over = time.monotonic() + float(self.state.earlier[-1].get("wait_s", 0.0))
            while time.monotonic() < over and not self._asked_to_stop:
                self._look_around(min(_LOOK_EVERY_S, max(0.0, over - time.monotonic())))
            try:
                if self._asked_to_stop:
                    return False
                self._begin_next()
                return True
            except restarts.NotAnswering as exc:
                self._wait_for(str(exc))
            except (AscendrunError, OSError) as exc:
                if self.state.attempt == self.state.earlier[-1].get("attempt"):  # it was not even announced
                    self._tell(events.ATTEMPT_STARTED, {"attempt": self.state.attempt + 1, "ranks": ()})
                self._end_attempt(restarts.failed_to_begin(exc), spec)
        return False

    def _wait_for(self, reason: str) -> None:
        """Wait until hosts may answer again; nobody tells us when."""
        if self._waited_for != reason:
            self._tell(events.HOSTS_AWAITED, {"reason": reason})
            self._waited_for = reason
        over = time.monotonic() + LONGEST_WAIT_S
        while time.monotonic() < over and not self._asked_to_stop:
            self._look_around(_LOOK_EVERY_S)

    def _end_attempt(self, ending: "policy.Attempt", spec: RestartSpec) -> None:
        earlier = [restarts.attempt_of(one) for one in self.state.earlier if one.get("cause") != policy.ASKED]
        dispensable = restarts.can_do_without(self.run, self.far, ending.host, self._lost)
        decision = policy.decide(spec, [*earlier, ending], dispensable=dispensable)
        if self._asked_to_restart is not None:
            ending = replace(ending, cause=policy.ASKED, sentence=f"ended for {self._asked_to_restart}")
            decision = policy.Decision(True, "it was asked for")
            self._asked_to_restart = None
            self.run.run_dir.restart_request.unlink(missing_ok=True)
        told = {**asdict(ending), "attempt": self.state.attempt, **asdict(decision)}
        self._tell(events.ATTEMPT_ENDED, told)
        self._avoid(decision.avoid)

    def _avoid(self, host: Optional[str]) -> None:
        self._lost.update([host] if host is not None else [])

    def _begin_next(self) -> None:
        """Begin the next attempt and follow it. Raises NotAnswering, UserError, HostError or OSError."""
        attempt = self.state.attempt + 1
        known = checkpoints.told(self.state.checkpoints)
        ready = restarts.prepare(self.run, self.far, attempt, known, self._lost, self.roads)
        self.run, self.far = ready.run, ready.far
        resume = ready.resume[0].path if ready.resume else None
        ranks = [(rank.rank_id, rank.host) for rank in self.run.plan.ranks]
        self._tell(events.ATTEMPT_STARTED, {"attempt": attempt, "ranks": ranks, "resume": resume})
        self._new_attempt()
        self._use(ready.begin())

    def _give_up_lost_hosts(self) -> None:
        spec = self.run.plan.spec.restart
        if spec is None or spec.on_host_lost == "wait":
            return
        for name, one in self.followed.items():
            since = one.silent_since
            if since is None or one.lost or one.finished or time.monotonic() - since < spec.host_lost_after_s:
                continue
            one.lost = True
            self._lost.add(name)
            self._tell(events.HOST_LOST, {"host": name})
            one.stop = (0.0, "its run goes on without it")  # should it come back
            if self._stopping is None:
                self._stop_all(NO_USE_S, f"host {name} is lost", but=name)

    # ── what hosts tell ────────────────────────────────────────────────────────────────────────────────────

    def _take(self, one: Followed, news: News) -> None:
        if self.followed.get(one.far.name) is not one or one.lost:
            return  # of an attempt that is over
        if isinstance(news, Event):
            if news.seq > one.last_seq:  # else it was told before the line broke
                copied = self.journal.copy(news)
                self.state = fold(self.state, [copied])
                self._heed(copied)
            return
        if isinstance(news, Missing):
            one.finished = True
            self._tell(events.HOST_ABSENT, {"host": one.far.name})
            if self._stopping is None:
                self._stop_all(NO_USE_S, f"the controller: {one.far.name} has no part of this run")
            return
        reachable = isinstance(news, Reached)
        if one.reachable is not reachable:
            if reachable and one.reachable is False:
                self._tell(events.HOST_BACK, {"host": one.far.name})
            elif isinstance(news, Lost):
                self._tell(events.HOST_SILENT, {"host": one.far.name, "reason": news.reason})
            one.reachable = reachable
            one.silent_since = None if reachable else time.monotonic()

    def _remember(self, event: Event) -> None:
        """Take in an event of our own journal that a controller before us wrote."""
        self.state = fold(self.state, [event])
        if event.kind == events.ATTEMPT_STARTED:
            self._new_attempt()
        elif event.kind == events.HOST_LOST:
            self._lost.add(str(event.data.get("host")))
        elif event.kind == events.ATTEMPT_ENDED:
            self._avoid(event.data.get("avoid"))
        elif event.of_host is not None:
            self._heed(event)

    def _heed(self, event: Event) -> None:
        """Do what an event of a host asks for."""
        one = self.followed.get(event.host)
        if one is None:
            return
        one.last_seq = max(one.last_seq, event.of_host or 0)
        if event.kind == events.HOST_FINISHED:
            one.finished = True
        if event.kind == events.CHECKPOINT and one.transport is not None:
            known = checkpoints.told(self.state.checkpoints[-1:])
            self._copier.add(known, one.far, one.transport)
        failed = event.kind in _ENDS and event.rank is not None and event.data.get("code") != 0
        if failed and self._stopping is None:
            self._stop_all(
                self.run.plan.grace_of_failure_s(), f"rank {event.rank} on {event.host} ended", but=event.host
            )

    def _copies_wanted(self) -> bool:
        spec = self.run.plan.spec.restart
        return spec is not None and spec.on_host_lost != "wait"

    def _heed_requests(self) -> None:
        if self._asked_to_restart is None and self.run.run_dir.restart_request.exists():
            self._asked_to_restart = "ascendrun restart"
            if self._stopping is None:
                self._stop_all(self.run.plan.spec.grace_s, self._asked_to_restart)
        try:
            request = json.loads(self.run.run_dir.stop_request.read_bytes())
            grace_s, by = float(request["grace_s"]), str(request.get("by", "unknown"))
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError):
            grace_s, by = self.run.plan.spec.grace_s, "unknown"
        if not self._asked_to_stop or (self._stopping is not None and grace_s < self._stopping[0]):
            self._asked_to_stop = True
            self._stop_all(grace_s, by)

    def _stop_all(self, grace_s: float, by: str, but: Optional[str] = None) -> None:
        self._stopping = (grace_s, by)
        for name, one in self.followed.items():
            if name != but:
                one.stop = self._stopping
                # in a thread of its own: a host that does not answer must not keep us from the others
                threading.Thread(target=one.tell_stop, daemon=True).start()

    def _hear(self, one: Followed, news: News) -> None:
        self._news.put((one, news))
        with contextlib.suppress(BlockingIOError):  # it is full: we are awake
            os.write(self._wake_write, b"+")
