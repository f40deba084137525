"""One host's part of an attempt, followed by a thread of its own: its events, and whether it can be reached."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Optional, Union

from orchestrator.errors import AscendrunError, HostError
from orchestrator.farhosts import FarHost, Line, NoRunError
from orchestrator.hearsay import may_tell
from orchestrator.supervisor import events
from orchestrator.supervisor.events import Event
from orchestrator.transport.base import Transport
from orchestrator.transport.fanout import Roads

LONGEST_WAIT_S = 5.0  # between attempts to reach a host again
_FIRST_WAIT_S = 0.2
_NOD_EVERY_S = 1.0
_SILENT_S = 10.0  # without even an empty line


@dataclass(frozen=True)
class Lost:
    """A host cannot be reached."""

    reason: str


class Reached:
    """A host can be reached (again)."""


class Missing:
    """A host has no part of this attempt, and never will: its launch was killed, or somebody removed it."""


News = Union[Event, Lost, Reached, Missing]


@dataclass(eq=False)
class Followed:
    """What is known of a host's part of one attempt."""

    far: FarHost
    ranks: "frozenset[int]"  # of which it may speak
    last_seq: int = 0  # of its journal, in ours
    finished: bool = False
    lost: bool = False  # given up: what it still does counts no more
    reachable: Optional[bool] = None  # None: not known yet
    silent_since: Optional[float] = None  # monotonic
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


def follow(one: Followed, roads: Roads, hear: "Callable[[Followed, News], None]") -> None:
    """Tell *hear* all that a host tells, through broken lines, until its part of the attempt is over."""
    wait_s = _FIRST_WAIT_S
    while True:
        try:
            if one.line is None:
                with roads.dial(one.far.entry) as transport, one.far.follow(transport, one.last_seq) as line:
                    _read(one, line, hear)
            else:
                line, one.line = one.line, None
                with line.transport, line:
                    _read(one, line, hear)
            return
        except NoRunError:
            hear(one, Missing())
            return
        except AscendrunError as exc:
            wait_s = _FIRST_WAIT_S if one.transport is not None else min(2 * wait_s, LONGEST_WAIT_S)
            hear(one, Lost(str(exc)))
        finally:
            one.transport = None
        time.sleep(wait_s)  # nobody tells us when a line is mended


def _read(one: Followed, line: Line, hear: "Callable[[Followed, News], None]") -> None:
    """Hand on all that comes over a line, until the host's part is over. Raises HostError where the line breaks."""
    one.transport = line.transport
    one.tell_stop()
    nodded = 0.0
    while True:
        text = line.hear(_SILENT_S)
        hear(one, Reached())
        if time.monotonic() - nodded >= _NOD_EVERY_S:
            line.nod()
            nodded = time.monotonic()
        event = Event.from_line(text) if text else None
        if event is not None and may_tell(event, one.far.name, one.ranks):
            hear(one, event)
            if event.kind == events.RUN_FINISHED:
                return
