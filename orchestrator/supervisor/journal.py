"""The journal: the only writer and the only reader of `journal.jsonl`."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, List, Mapping, Optional, Tuple

from orchestrator.supervisor.events import HOST_FINISHED, HOST_STARTED, RUN_FINISHED, RUN_STARTED, Event


def read_events(path: Path, offset: int = 0) -> Tuple[List[Event], int]:
    """Return the events after byte *offset* and the offset after the last whole line.

    A half-written last line is left for the next call; a damaged line is passed over.
    A missing journal has no events.
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            block = file.read()
    except FileNotFoundError:
        return [], offset
    end = block.rfind(b"\n") + 1
    events = [event for line in block[:end].split(b"\n") if (event := Event.from_line(line)) is not None]
    return events, offset + end


class Journal:
    """Appends events. A full disk delays events, in order, and loses none."""

    def __init__(self, path: Path, host: str) -> None:
        """Open *path* for appending and go on from its last event. Raises OSError."""
        self.host = host
        self.past, end = read_events(path)  # what an earlier supervisor of this run wrote
        if path.exists() and (last := Event.from_line(path.read_bytes()[end:])) is not None:
            self.past.append(last)  # it lacks nothing but its line end
        self._next_seq = self.past[-1].seq + 1 if self.past else 1
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._torn = os.fstat(self._file).st_size > end  # a half line that the next write must end first
        self._waiting: List[bytes] = []

    def append(self, kind: str, data: Optional[Mapping[str, Any]] = None, *, rank: Optional[int] = None) -> Event:
        event = Event(self._next_seq, time.time(), time.monotonic(), kind, self.host, rank, data or {})
        self._add(event)
        return event

    def copy(self, event: Event) -> Event:
        """Append an event of another host's journal and return it as it is here; there it has the number `of_host`."""
        kind = {RUN_STARTED: HOST_STARTED, RUN_FINISHED: HOST_FINISHED}.get(event.kind, event.kind)
        copied = replace(event, seq=self._next_seq, kind=kind, of_host=event.seq)
        self._add(copied)
        return copied

    def _add(self, event: Event) -> None:
        self._next_seq += 1
        self._waiting.append(event.to_line().encode())
        self.flush()

    def flush(self) -> bool:
        """Write what waits; False where the disk takes no more (call again later)."""
        while self._waiting:
            line = b"\n" + self._waiting[0] if self._torn else self._waiting[0]
            try:
                written = os.write(self._file, line)
            except OSError:
                return False
            self._torn = written < len(line)
            if self._torn:
                return False
            del self._waiting[0]
        return True

    def close(self) -> None:
        os.close(self._file)
