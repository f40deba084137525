"""HostPlan: the part of a run that one host can act on alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Mapping, Optional, Tuple

SCHEDULER = "scheduler"


@dataclass(frozen=True)
class ProcessPlan:
    """One process to start: a rank, or the scheduler that MindSpore's dynamic cluster needs."""

    rank: Optional[int]  # None: the scheduler
    argv: Tuple[str, ...]
    environment: Mapping[str, str]  # added to the environment of the supervisor
    folder: str  # its work folder, below the run folder
    log: str  # file name in that folder
    working_directory: Optional[str] = None  # absolute; None: the work folder
    cpus: Optional[Tuple[int, ...]] = None  # CPUs to stay on; None: all
    unset: Tuple[str, ...] = ()  # variables of the supervisor's environment that would mislead it
    device_id: Optional[int] = None  # the physical id of its Ascend device; None: it has none

    @property
    def name(self) -> str:
        return SCHEDULER if self.rank is None else f"rank-{self.rank}"

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "ProcessPlan":
        """Read back what `asdict` gave, after a journey through JSON."""
        return cls(
            fields["rank"],
            tuple(fields["argv"]),
            fields["environment"],
            fields["folder"],
            fields["log"],
            fields["working_directory"],
            tuple(fields["cpus"]) if fields["cpus"] else None,
            tuple(fields.get("unset", ())),  # not in the plans of the first runs, which stay readable
            fields.get("device_id"),
        )


@dataclass(frozen=True)
class HostPlan:
    run_id: str  # also the mark by which leftovers of this run are told from other processes
    host: str
    processes: Tuple[ProcessPlan, ...]
    grace_s: float  # between SIGTERM and SIGKILL
    log_patterns: Tuple[str, ...] = ()  # for programs that write no progress file
    # Start the scheduler only when a rank connects to its port: a program that never asks needs none.
    scheduler_on_demand: Optional[Tuple[str, int]] = None
    hang_after_s: Optional[float] = None  # of silence; 0: never; None: as learned from the run
    ranks_elsewhere: bool = False  # other hosts have ranks of this run too
    lease_s: Optional[float] = None  # ranks end when nobody has watched for so long; None: they outlive all who watch
    failed_grace_s: Optional[float] = None  # as grace_s, for ranks whose peer has failed; None: the same
    health_every_s: Optional[float] = None  # between two looks at devices and memory; 0: none; None: as usual

    @property
    def grace_of_failure_s(self) -> float:
        return self.grace_s if self.failed_grace_s is None else self.failed_grace_s

    @property
    def scheduler(self) -> Optional[ProcessPlan]:
        return next((process for process in self.processes if process.rank is None), None)

    @property
    def ranks(self) -> Tuple[ProcessPlan, ...]:
        return tuple(process for process in self.processes if process.rank is not None)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "HostPlan":
        """Read what `to_json` wrote. Raises ValueError, KeyError or TypeError on anything else."""
        fields: "dict[str, Any]" = json.loads(text)
        processes = tuple(ProcessPlan.from_fields(process) for process in fields["processes"])
        on_demand = fields["scheduler_on_demand"]
        return cls(
            fields["run_id"],
            fields["host"],
            processes,
            fields["grace_s"],
            tuple(fields["log_patterns"]),
            (on_demand[0], on_demand[1]) if on_demand else None,
            fields.get("hang_after_s"),
            fields.get("ranks_elsewhere", False),
            fields.get("lease_s"),
            fields.get("failed_grace_s"),
            fields.get("health_every_s"),
        )
