"""Ranks that must not outlive those who watch over them for longer than a time."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Lease:
    """Runs out when nobody has renewed it for *lease_s* seconds, by this host's monotonic clock."""

    def __init__(self, path: Path, lease_s: float) -> None:
        self._path = path
        self.lease_s = lease_s
        self._mark = self._look()
        self._seen = time.monotonic()

    def is_over(self) -> bool:
        mark = self._look()
        if mark != self._mark:
            self._mark, self._seen = mark, time.monotonic()
        return time.monotonic() - self._seen > self.lease_s

    def _look(self) -> int:
        try:
            return self._path.stat().st_mtime_ns
        except OSError:
            return 0


def renew(path: Path) -> None:
    """Say that somebody watches."""
    try:
        os.utime(path)
    except OSError:  # not there yet; a disk that is full has no room for it, and then it counts as not watched
        path.touch()
