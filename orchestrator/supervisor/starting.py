"""Start a process that outlives us and watches over a run folder."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from typing import Any, Callable, NoReturn, Optional

from orchestrator.supervisor import ownership
from orchestrator.supervisor.linux import close_from
from orchestrator.supervisor.rundir import RunDir

Watch = Callable[[RunDir, Callable[[], None]], int]  # watches to the end; calls the second when it is under way

_READY = b"+"
_OTHER_STARTS_S = 2.0


def start(run_dir: RunDir, watch: Watch) -> Optional[str]:
    """Start *watch* in a process of its own; return once one is under way, ours or another's, or why none is.

    It is forked, not executed: that spares the start of a second interpreter, which is a third of the
    time that eight ranks take to come up. Raises OSError where its log cannot be written.
    """
    log = os.open(run_dir.supervisor_log, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    said_before = os.fstat(log).st_size
    ready_read, ready_write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _detach(run_dir, watch, log, ready_write)
    os.close(ready_write)
    with contextlib.suppress(ChildProcessError):  # our parent had us ignore SIGCHLD
        os.waitpid(child, 0)
    with os.fdopen(ready_read, "rb") as pipe, os.fdopen(log, "rb") as words:
        if pipe.read(1) == _READY:
            return None
        deadline = time.monotonic() + _OTHER_STARTS_S
        while time.monotonic() < deadline:  # another one may have been a moment faster; it is not ours to wait for
            owner = ownership.owner(run_dir)
            if owner is not None and owner.is_alive():
                return None
            time.sleep(0.05)
        words.seek(said_before)
        said = words.read().decode("utf-8", "replace").strip().splitlines()
    return f"the supervisor could not start: {said[-1] if said else 'it left no word'} ({run_dir.supervisor_log})"


class Parting:
    """By it, work that `run_apart` runs says that it is under way, and leaves the terminal of whoever waits."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def say(self, answer: bytes) -> None:
        """Let `run_apart` return with *answer*; once only. Where nobody waits any more, it is lost."""
        with contextlib.suppress(BrokenPipeError):
            while answer:
                answer = answer[os.write(self._pipe, answer) :]
        os.close(self._pipe)

    def go_on(self) -> None:
        """From now on Ctrl-C does not end us: it is for whoever waits to heed."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def leave(self, run_dir: RunDir) -> None:
        """Go on without a terminal, our words in the log of *run_dir*. Raises OSError where that cannot be written."""
        log = os.open(run_dir.supervisor_log, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.setsid()
        _without_terminal(log)
        os.close(log)


def run_apart(work: "Callable[[Parting], None]") -> bytes:
    """Run *work* in a process of its own, which ends with it and not with us; return what it says.

    Until it leaves, it has our terminal: to ask for a passphrase, for one. Until it goes on, Ctrl-C there is a
    KeyboardInterrupt for it, unless we ignore it ourselves. Returns b"" where it ended without a word.
    """
    ctrl_c = signal.SIG_IGN if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else signal.default_int_handler
    said_read, said_write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _work_apart(work, said_write, ctrl_c)
    os.close(said_write)
    with contextlib.suppress(ChildProcessError):  # our parent had us ignore SIGCHLD
        os.waitpid(child, 0)
    with os.fdopen(said_read, "rb") as pipe:
        return pipe.read()


def _work_apart(work: "Callable[[Parting], None]", pipe: int, ctrl_c: Any) -> NoReturn:
    code = 1
    try:
        if os.fork():
            os._exit(0)  # so that init will reap it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        close_from(3, keep=(pipe,))
        signal.signal(signal.SIGINT, ctrl_c)
        work(Parting(pipe))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _without_terminal(log: int) -> None:
    """Read nothing, write to *log*, and keep nobody's file system busy."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)
    os.chdir("/")
    sys.stdout = sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)


def _detach(run_dir: RunDir, watch: Watch, log: int, ready: int) -> NoReturn:
    """Become a process of its own that watches; nothing of ours may hold on to our parent's files."""
    code = 1
    try:
        os.setsid()
        if os.fork():
            os._exit(0)  # the parent of the supervisor ends at once, so init will reap it
        _without_terminal(log)
        close_from(3, keep=(ready,))

        def tell_ready() -> None:
            os.write(ready, _READY)
            os.close(ready)

        code = watch(run_dir, tell_ready)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
