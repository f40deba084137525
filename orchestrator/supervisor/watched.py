"""A process of the plan as it is now, and what its keeper wrote of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from orchestrator.supervisor.hostplan import ProcessPlan
from orchestrator.supervisor.process import Identity, Place, send_signal
from orchestrator.supervisor.rundir import RunDir


@dataclass
class Watched:
    """A process of the plan as it is now."""

    plan: ProcessPlan
    identity: Optional[Identity] = None  # None: not started yet
    keeper: Optional[Identity] = None
    ended: bool = False

    def is_running(self) -> bool:
        return self.identity is not None and not self.ended

    def learn_identity(self, run_dir: RunDir, here: Place) -> bool:
        """Read who it is; False where it was not started yet, or not in this place."""
        try:
            facts = json.loads(run_dir.started(self.plan.name).read_bytes())
            if Place(*facts["place"]) != here:
                return False  # of an earlier boot: those numbers mean other processes now
            self.identity = Identity(facts["pid"], facts["start_ticks"])
            self.keeper = Identity(facts["keeper_pid"], facts["keeper_start_ticks"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return True

    def read_ending(self, run_dir: RunDir) -> Optional[Dict[str, Any]]:
        """Return how it ended; None while it has not."""
        try:
            ending = json.loads(run_dir.exited(self.plan.name).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return {"code": None, "signal": None, "error": "the record of its end cannot be read"}
        return ending if isinstance(ending, dict) else {"code": None, "signal": None, "error": "its record is damaged"}

    def signal(self, number: int) -> None:
        """Signal its process group, unless its leader is gone and the number may be another's."""
        if self.identity is not None and self.identity.is_alive():
            send_signal(self.identity.pid, number, group=True)


@dataclass
class Stop:
    """All processes are being ended."""

    grace_s: float
    deadline: float  # monotonic; SIGKILL follows
    killed: bool = False


@dataclass
class Intent:
    """All processes will be ended as soon as their stacks are taken."""

    cause: str
    grace_s: float
    rank: Optional[int] = None
    by: Optional[str] = None
    aborted: List[int] = field(default_factory=list)  # ranks that are to write their stack themselves
