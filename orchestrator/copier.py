"""Copies of checkpoints on this machine, made while a run goes on: a host that is lost takes none with it."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Sequence
from typing import Optional

from orchestrator.checkpoints import Checkpoint, copy_of, fetch_checkpoint
from orchestrator.errors import HostError, RunDirError
from orchestrator.farhosts import FarHost
from orchestrator.supervisor.rundir import RunDir
from orchestrator.transport.base import Transport

_PATIENCE_S = 60.0
_KEPT = 3  # copies of each rank's: the newest, and two should that be damaged


class Copier:
    """Fetches checkpoints in a thread of its own, one after another; training waits for none of it."""

    def __init__(self, run_dir: RunDir, wanted: bool) -> None:
        self._run_dir = run_dir
        self._wanted = wanted
        self._due: "queue.SimpleQueue[Optional[tuple[Checkpoint, FarHost, Transport]]]" = queue.SimpleQueue()
        self._made: "dict[int, list[str]]" = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        if wanted:
            self._thread.start()

    def add(self, known: "Sequence[Checkpoint]", far: FarHost, transport: Transport) -> None:
        if self._wanted and not far.entry.is_this_machine():
            for one in known:
                self._due.put((one, far, transport))

    def close(self) -> None:
        """Let the one under way be finished, for a while."""
        if self._wanted:
            self._due.put(None)
            self._thread.join(_PATIENCE_S)

    def _run(self) -> None:
        while (due := self._due.get()) is not None:
            one, far, transport = due
            target = copy_of(self._run_dir, one, far)
            try:
                fetch_checkpoint(transport, one, target)
            except (HostError, RunDirError) as exc:
                print(f"no copy of {one.path} of {one.host}: {exc}", file=sys.stderr, flush=True)
                continue
            made = self._made.setdefault(one.rank, [])
            made.append(str(target))
            while len(made) > _KEPT:
                old = made.pop(0)
                for path in (old, os.path.splitext(old)[0] + ".json"):
                    with contextlib.suppress(OSError):
                        os.unlink(path)
