"""Send a signal to a process of a run, for drills: to that one, and to no other that has its number by now."""

from __future__ import annotations

import json
import os
import signal

from orchestrator.supervisor import ownership
from orchestrator.supervisor.process import Identity, Place, send_signal
from orchestrator.supervisor.rundir import RunDir

SUPERVISOR = "supervisor"


def strike(run_dir: RunDir, process: str, number: int) -> int:
    """Send signal *number* to a process (`rank-3`), or to whoever supervises the run; return its pid.

    Raises ProcessLookupError where it does not run here, OSError where it cannot be signalled.
    """
    if process == SUPERVISOR:
        owner = ownership.owner(run_dir)
        place, identity = (owner.place, owner.identity) if owner else (None, None)
    else:
        try:
            facts = json.loads(run_dir.started(process).read_bytes())
            place, identity = Place(*facts["place"]), Identity(facts["pid"], facts["start_ticks"])
        except (OSError, ValueError, KeyError, TypeError):
            place, identity = None, None
    if identity is None or place != Place.here() or not identity.is_alive():
        raise ProcessLookupError(0, f"{process} does not run", str(run_dir.root))
    os.kill(identity.pid, number)
    if number not in (signal.SIGSTOP, signal.SIGKILL):  # a stopped process gets no others
        send_signal(identity.pid, signal.SIGCONT)
    return identity.pid
