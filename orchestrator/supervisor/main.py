"""Become the supervisor of a run folder."""

from __future__ import annotations

import sys
import traceback
from typing import Callable

from orchestrator.supervisor import ownership
from orchestrator.supervisor.hostplan import HostPlan
from orchestrator.supervisor.journal import Journal
from orchestrator.supervisor.linux import set_title
from orchestrator.supervisor.loop import Supervisor
from orchestrator.supervisor.rundir import RunDir


def supervise(run_dir: RunDir, ready: Callable[[], None]) -> int:
    """Supervise the run in *run_dir* to its end; call *ready* once it is under way.

    Returns 0; or 1 where it could not begin or go on (the reason is the last line on standard error). Where
    another supervisor holds the run there is nothing to do: that is 0 too.
    """
    try:
        if ownership.take(run_dir) is None:
            return 0
        plan = HostPlan.from_json(run_dir.host_plan.read_text(encoding="utf-8"))
        set_title(f"ascendrun: supervisor of {plan.run_id}")  # before it has ranks: whoever looks knows it from them
        supervisor = Supervisor(run_dir, plan, Journal(run_dir.journal, plan.host))
        supervisor.begin()
    except OSError as exc:
        print(f"{exc.strerror or exc}" + (f": {exc.filename}" if exc.filename else ""), file=sys.stderr, flush=True)
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    ready()
    try:
        supervisor.run()
    except Exception:  # the ranks live on; the next `status` starts another supervisor
        traceback.print_exc()
        return 1
    return 0
