"""Become the supervisor of a run folder."""

from __future__ import annotations

import fcntl
import os
import sys
import traceback
from typing import Callable

from orchestrator.supervisor.hostplan import HostPlan
from orchestrator.supervisor.journal import Journal
from orchestrator.supervisor.linux import set_title
from orchestrator.supervisor.loop import Supervisor
from orchestrator.supervisor.process import Identity
from orchestrator.supervisor.rundir import RunDir, write_atomically


def supervise(run_dir: RunDir, ready: Callable[[], None]) -> int:
    """Supervise the run in *run_dir* to its end; call *ready* once it is under way.

    Returns 0; or 1 where it could not begin (the reason is on standard error). Where another
    supervisor holds the run there is nothing to do: that is 0 too.
    """
    lock = os.open(run_dir.supervisor_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a POSIX lock: no fork of ours inherits it
    except BlockingIOError:
        return 0
    try:
        plan = HostPlan.from_json(run_dir.host_plan.read_text(encoding="utf-8"))
        journal = Journal(run_dir.journal, plan.host)
        supervisor = Supervisor(run_dir, plan, journal)
        write_atomically(run_dir.supervisor_pid, f"{os.getpid()} {Identity.of(os.getpid()).start_ticks}\n")  # type: ignore[union-attr]
        supervisor.begin()
    except OSError as exc:
        print(f"{exc.strerror or exc}" + (f": {exc.filename}" if exc.filename else ""), file=sys.stderr, flush=True)
        return 1
    set_title(f"ascendrun: supervisor of {plan.run_id}")
    ready()
    try:
        supervisor.run()
    except Exception:  # the ranks live on; the next `status` starts another supervisor
        traceback.print_exc()
        return 1
    return 0


def supervisor_identity(run_dir: RunDir) -> "Identity | None":
    """Return which process last supervised *run_dir*; None where none ever did."""
    try:
        pid, ticks = run_dir.supervisor_pid.read_text(encoding="ascii").split()
        return Identity(int(pid), int(ticks))
    except (OSError, ValueError):
        return None
