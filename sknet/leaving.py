"""Ending when asked: SIGTERM and Ctrl-C let the ranks finish the same step and keep a checkpoint of it.

Until the first step has ended there is nothing to keep, and both do what they always do.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GAVE_UP = 128 + signal.SIGTERM  # exit code of a process that ended by SIGTERM, as shells write it
LEAST_PATIENCE_S = 1.0
PATIENCE = 1.5  # times the longest step so far


class Notice:
    """Whether this rank was asked to end. Another SIGTERM changes nothing; a second Ctrl-C is a KeyboardInterrupt.

    Python runs our handler only between two steps. Where a step does not end any more, because a rank it waits for is
    gone, a thread ends the process instead: whoever asked must not have to wait for the limits of a collective.
    """

    def __init__(self, before_giving_up: Callable[[], None]) -> None:
        """*before_giving_up* finishes what must be whole on disk; it is called in that thread."""
        self.asked = False
        self._before_giving_up = before_giving_up
        self._listening = False
        self._ended = 0  # steps
        self._stepping = False
        self._longest_s = 0.0
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self._wake_read, True)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Take one step in this context. The first one, which compiles, ends with listening."""
        self._stepping, began = True, time.monotonic()
        yield
        self._stepping = False
        self._ended += 1
        if self._listening:
            self._longest_s = max(self._longest_s, time.monotonic() - began)
        else:
            self._listen()

    def heed(self) -> None:
        """Be deaf to SIGTERM from now on: what was asked for is being done, to the last line of the process."""
        self._stepping = False
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _listen(self) -> None:
        self._listening = True
        signal.set_wakeup_fd(self._wake_write)
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)
        threading.Thread(target=self._see_that_steps_end, name="notice", daemon=True).start()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True

    def _see_that_steps_end(self) -> None:
        while os.read(self._wake_read, 1)[0] not in SIGNALS:
            pass
        while True:
            before, patience_s = self._ended, max(LEAST_PATIENCE_S, PATIENCE * self._longest_s)
            time.sleep(patience_s)
            if self._stepping and self._ended == before:
                print(
                    f"sknet.train: asked to end, but this step takes longer than {patience_s:.1f} s: a rank is "
                    f"gone, or hangs; ended without a checkpoint of it",
                    file=sys.stderr,
                    flush=True,
                )
                self._before_giving_up()
                os._exit(GAVE_UP)
