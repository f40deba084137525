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
from dataclasses import dataclass, field
from typing import Optional, Union

from orchestrator.errors import AscendrunError, HostError
from orchestrator.farhosts import FarHost, FarHosts, Line, NoRunError
from orchestrator.hearsay import may_tell
from orchestrator.store import Run
from orchestrator.supervisor import events, ownership
from orchestrator.supervisor.events import Event
from orchestrator.supervisor.journal import Journal
from orchestrator.supervisor.linux import Watcher, set_title
from orchestrator.supervisor.rundir import RunDir
from orchestrator.transport.base import Transport
from orchestrator.transport.fanout import Roads

_SILENT_S = 10.0  # without even an empty line
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 5.0  # between attempts to reach a host again
_LOOK_EVERY_S = 0.5
_ENDS = (events.PROCESS_EXITED, events.PROCESS_LOST)


@dataclass(frozen=True)
class Lost:
    """A host cannot be reached."""

    host: str
    reason: str


@dataclass(frozen=True)
class Reached:
    """A host can be reached (again)."""

    host: str


@dataclass(frozen=True)
class Missing:
    """A host has no part of the run, and never will: the launch was killed, or somebody removed it."""

    host: str


News = Union[Event, Lost, Reached, Missing]


@dataclass
class _Followed:
    """What the controller knows of one host."""

    far: FarHost
    ranks: "frozenset[int]"  # of which it may speak
    last_seq: int = 0  # of its journal, in ours
    finished: bool = False
    reachable: Optional[bool] = None  # None: not known yet
    line: Optional[Line] = None  # that was begun for us
    transport: Optional[Transport] = None  # while a line holds
    stop: Optional[tuple[float, str]] = None  # grace in s, by whom
    stop_told: Optional[tuple[float, str]] = None
    telling: threading.Lock = field(default_factory=threading.Lock)

    def tell_stop(self) -> None:
        """Pass a stop on that the host does not know of; where the line breaks, the next one does it."""
        with self.telling, contextlib.suppress(HostError):
            wanted, transport = self.stop, self.transport
            if transport is not None and wanted is not None and wanted != self.stop_told:
                self.far.stop(transport, *wanted)
                self.stop_told = wanted


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
        self.roads = roads
        self.journal = journal
        self.followed = {
            host.name: _Followed(host, frozenset(rank.rank_id for rank in run.plan.ranks if rank.host == host.name))
            for host in far.hosts
        }
        self._news: "queue.SimpleQueue[News]" = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopping: Optional[tuple[float, str]] = None
        for event in journal.past:
            self._remember(event)
        kind = events.SUPERVISOR_ADOPTED if journal.past else events.RUN_STARTED
        journal.append(kind, {"hosts": sorted(self.followed)})

    def go(self, ready: "Callable[[], None]", lines: "Optional[Mapping[str, Line]]" = None) -> int:
        """Control the run to its end; call *ready* first. *lines*, by name of the host: which follow it already."""
        for name, line in (lines or {}).items():
            self.followed[name].line = line
        set_title(f"ascendrun: controller of {self.run.plan.run_id}")
        ready()
        try:
            self.run_to_end()
        except Exception:
            traceback.print_exc()
            return 1
        return 0

    def run_to_end(self) -> None:
        """Go on until every host has told its last event; then write `run_finished`."""
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        terminated = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: terminated.set())
        for one in self.followed.values():
            if not one.finished:
                threading.Thread(target=self._follow, args=(one,), daemon=True).start()
        watcher = Watcher()
        watcher.add(self.run.run_dir.requests)
        while not all(one.finished for one in self.followed.values()):
            watcher.wait(_LOOK_EVERY_S, self._wake_read)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
            while not self._news.empty():
                self._take(self._news.get())
            if terminated.is_set() and self._stopping is None:
                self._stop_all(self.run.plan.spec.grace_s, "SIGTERM to the controller")
            self._heed_requests()
            self.journal.flush()
        self.journal.append(events.RUN_FINISHED)
        while not self.journal.flush():
            time.sleep(_LOOK_EVERY_S)  # the disk is full: the end of the run must still be told

    # ── what hosts tell ────────────────────────────────────────────────────────────────────────────────────

    def _take(self, news: News) -> None:
        if isinstance(news, Event):
            if news.seq <= self.followed[news.host].last_seq:
                return  # told before the line broke
            self._remember(self.journal.copy(news))
            return
        one = self.followed[news.host]
        if isinstance(news, Missing):
            one.finished = True
            if self._stopping is None:
                self._stop_all(self.run.plan.spec.grace_s, f"the controller: {news.host} has no part of this run")
            return
        reachable = isinstance(news, Reached)
        if one.reachable is not reachable:
            if reachable and one.reachable is False:
                self.journal.append(events.HOST_BACK, {"host": news.host})
            elif isinstance(news, Lost):
                self.journal.append(events.HOST_SILENT, {"host": news.host, "reason": news.reason})
            one.reachable = reachable

    def _remember(self, event: Event) -> None:
        """Take in an event of our own journal: by a host if it has its own number there."""
        if event.of_host is None:
            return
        one = self.followed.get(event.host)
        if one is None:
            return
        one.last_seq = max(one.last_seq, event.of_host)
        if event.kind == events.HOST_FINISHED:
            one.finished = True
        failed = event.kind in _ENDS and event.rank is not None and event.data.get("code") != 0
        if failed and self._stopping is None:
            self._stop_all(self.run.plan.spec.grace_s, f"rank {event.rank} on {event.host} ended", but=event.host)

    def _heed_requests(self) -> None:
        try:
            request = json.loads(self.run.run_dir.stop_request.read_bytes())
            grace_s, by = float(request["grace_s"]), str(request.get("by", "unknown"))
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError):
            grace_s, by = self.run.plan.spec.grace_s, "unknown"
        if self._stopping is None or grace_s < self._stopping[0]:
            self._stop_all(grace_s, by)

    def _stop_all(self, grace_s: float, by: str, but: Optional[str] = None) -> None:
        self._stopping = (grace_s, by)
        for name, one in self.followed.items():
            if name != but:
                one.stop = self._stopping
                # in a thread of its own: a host that does not answer must not keep us from the others
                threading.Thread(target=one.tell_stop, daemon=True).start()

    def _hear(self, news: News) -> None:
        self._news.put(news)
        with contextlib.suppress(BlockingIOError):  # it is full: we are awake
            os.write(self._wake_write, b"+")

    # ── one host, in a thread of its own ───────────────────────────────────────────────────────────────────

    def _follow(self, one: _Followed) -> None:
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                if one.line is None:
                    with self.roads.dial(one.far.entry) as transport, one.far.follow(transport, one.last_seq) as line:
                        self._read(one, line)
                else:
                    line, one.line = one.line, None
                    with line.transport, line:
                        self._read(one, line)
                return
            except NoRunError:
                self._hear(Missing(one.far.name))
                return
            except AscendrunError as exc:
                wait_s = _FIRST_WAIT_S if one.transport is not None else min(2 * wait_s, _LONGEST_WAIT_S)
                self._hear(Lost(one.far.name, str(exc)))
            finally:
                one.transport = None
            time.sleep(wait_s)  # nobody tells us when a line is mended

    def _read(self, one: _Followed, line: Line) -> None:
        """Hand on all that a host tells, until its part of the run is over. Raises HostError where the line breaks."""
        one.transport = line.transport
        one.tell_stop()
        while True:
            text = line.hear(_SILENT_S)
            self._hear(Reached(one.far.name))
            event = Event.from_line(text) if text else None
            if event is not None and may_tell(event, one.far.name, one.ranks):
                self._hear(event)
                if event.kind == events.RUN_FINISHED:
                    return
