"""Ctrl-C and SIGTERM: noted, and passed on to the run instead of ending us."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Optional


class Interrupts:
    """Counts the signals that ask for an end. The first asks for a clean stop, the next kills."""

    def __init__(self) -> None:
        self.count = 0
        self.last: Optional[str] = None
        self.wake, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)  # readable after a signal

    def close(self) -> None:
        os.close(self.wake)
        os.close(self._wake_write)

    def drain(self) -> None:
        """Make `wake` quiet until the next signal."""
        with suppress(BlockingIOError):
            os.read(self.wake, 4096)

    def note(self, number: int, frame: object) -> None:
        os.write(self._wake_write, b"!")
        self.count += 1
        self.last = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


@contextmanager
def interrupts_noted() -> Iterator[Interrupts]:
    """Note SIGINT and SIGTERM instead of dying from them; the old handlers come back afterwards.

    One that we were started to ignore (a job in the background of a script) stays ignored.
    """
    interrupts = Interrupts()
    wanted = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    old = {number: signal.signal(number, interrupts.note) for number in wanted}
    try:
        yield interrupts
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        interrupts.close()
