"""Stay with a child process until it ends: read what it prints, pass Ctrl-C on, give back its exit code."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from orchestrator.cli import output
from orchestrator.cli.interrupts import Interrupts
from orchestrator.cli.main import INTERRUPTED

if TYPE_CHECKING:
    import subprocess

_DIED = 1  # of a child that a signal ended: the job failed


def run_to_end(child: "subprocess.Popen[bytes]", interrupts: Interrupts, on_line: Callable[[str], None]) -> int:
    """Call *on_line* for each line of the child's output; return its exit code when it has ended.

    The first interrupt asks it to end, the next kills it and what it started; the code is 130 then. If we cannot
    go on, they are killed too.
    """
    assert child.stdout is not None, "it was started with a pipe"
    rest, passed_on = b"", 0
    watched: "list[Any]" = [child.stdout, interrupts.wake]
    try:
        while True:
            readable, _, _ = select.select(watched, [], [])
            if interrupts.count > passed_on:
                interrupts.drain()
                passed_on = interrupts.count
                if passed_on > 1:
                    _kill(child)
                    break
                child.send_signal(signal.SIGINT)
                output.say("stopping (Ctrl-C again: SIGKILL)")
            if child.stdout in readable:
                block = os.read(child.stdout.fileno(), 65536)
                *lines, rest = (rest + block).split(b"\n")
                if not block and rest:
                    lines = [rest]
                for line in lines:
                    on_line(line.decode("utf-8", "replace"))
                if not block:
                    break
        code = child.wait()
    except BaseException:
        _kill(child)
        child.wait()
        raise
    if interrupts.count:
        return INTERRUPTED
    if code < 0:
        output.say(f"ended by {signal.Signals(-code).name}" + (" (out of memory?)" if -code == signal.SIGKILL else ""))
        return _DIED
    return code


def _kill(child: "subprocess.Popen[bytes]") -> None:
    """Kill the child and what it has started, which may hold on to its output."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
