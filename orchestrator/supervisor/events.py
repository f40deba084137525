"""Event: a fact that happened on a host, one JSON object a line in the journal."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Mapping, Optional

# Kinds are an open set: what a newer supervisor writes, an older reader keeps and passes over.
RUN_STARTED = "run_started"  # pid, host
SUPERVISOR_ADOPTED = "supervisor_adopted"  # pid, previous_pid: the one before was killed
PROCESS_STARTED = "process_started"  # pid, process
PROCESS_EXITED = "process_exited"  # process, code | signal | error, tail, errors, cpu_s, peak_rss_bytes
PROCESS_LOST = "process_lost"  # process, tail, errors: it ended and nobody recorded how
PROGRESS = "progress"  # ranks: {rank: {epoch, step, loss, ..., cpu_percent, rss_bytes}}
FIGURES_MISSING = "figures_missing"  # reason: no CPU and memory figures on this host
PHASE = "phase"  # phase
EPOCH = "epoch"  # epoch, epochs, loss, ...
CHECKPOINT = "checkpoint"  # path, epoch, step
EVALUATION = "evaluation"  # checkpoint, top_1_accuracy, ...
HANG = "hang"  # rank; phase, quiet_s, limit_s (null: a stopped process needs none), suspended, told, epoch, step
STACKS = "stacks"  # rank; file (in the run folder), by, frames, native, in_collective, state, wchan, threads, busy
OUT_OF_MEMORY = "out_of_memory"  # rank; by: cgroup | kernel | python, evidence
NAN_LOSS = "nan_loss"  # rank; epoch, step: the first loss of this rank that is no number
STRAGGLER = "straggler"  # rank; factor, step_s, median_s: slower than the others of its host for many steps
STRAGGLER_OVER = "straggler_over"  # rank
DISK_LOW = "disk_low"  # free_bytes, total_bytes: of the run folder's file system
DISK_LOW_OVER = "disk_low_over"
HEALTH = "health"  # rank, or none: the host's; what, device, severity: warning | fault, level, before, now, codes
HEALTH_OVER = "health_over"  # rank; what, device, now
STOPPING = "stopping"  # cause: requested | rank_failed | scheduler_failed | hang; by, grace_s, aborted
KILLING = "killing"  # processes: what the grace left over
SWEPT = "swept"  # pids: leftovers that carried the run's mark
UNKILLABLE = "unkillable"  # pids: leftovers that could not be ended
RUN_FINISHED = "run_finished"
# Of a run on far hosts, in the controller's journal: what the two above are called there of one host, and its line.
HOST_STARTED = "host_started"
HOST_FINISHED = "host_finished"
HOST_SILENT = "host_silent"  # host, reason: it cannot be reached
HOST_BACK = "host_back"  # host
HOST_ABSENT = "host_absent"  # host: it has nothing of this attempt, which never began there or was removed
HOST_LOST = "host_lost"  # host: this attempt goes on, or is over, without it
# Of a run that may be started again, in the controller's journal.
HOSTS_AWAITED = "hosts_awaited"  # reason: the next attempt waits for hosts that do not answer
ATTEMPT_ENDED = "attempt_ended"  # attempt, cause, rank, host, retriable, checkpoints, restart, reason, wait_s, avoid
ATTEMPT_STARTED = "attempt_started"  # attempt (2, 3, …), ranks: [[rank, host], …], resume: path or None

FROM_PROGRESS_FILE = (PHASE, EPOCH, CHECKPOINT, EVALUATION)


# What the controller alone tells.
OF_CONTROLLER = (
    HOST_STARTED,
    HOST_FINISHED,
    HOST_SILENT,
    HOST_BACK,
    HOST_ABSENT,
    HOST_LOST,
    HOSTS_AWAITED,
    ATTEMPT_ENDED,
    ATTEMPT_STARTED,
)


@dataclass(frozen=True)
class Event:
    """*at* is wall-clock time for people; *mono* is this host's monotonic clock, for durations."""

    seq: int  # from 1, without gaps in one journal
    at: float  # s since 1970
    mono: float  # s since this host's boot
    kind: str
    host: str
    rank: Optional[int] = None  # None: the event is the host's, not one rank's
    data: Mapping[str, Any] = field(default_factory=dict)
    of_host: Optional[int] = None  # its number in the journal of the host that it was copied from

    def to_line(self) -> str:
        fields = {
            "seq": self.seq,
            "at": round(self.at, 3),
            "mono": round(self.mono, 3),
            "kind": self.kind,
            "host": self.host,
        }
        if self.rank is not None:
            fields["rank"] = self.rank
        if self.data:
            fields["data"] = dict(self.data)
        if self.of_host is not None:
            fields["of_host"] = self.of_host
        return json.dumps(fields, separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: "str | bytes") -> "Optional[Event]":
        """Return the event, or None for a line that is none (torn by a full disk, or foreign)."""
        try:
            fields = json.loads(line)
            data = fields.get("data", {})
            if not isinstance(data, dict):
                return None
            return cls(
                seq=int(fields["seq"]),
                at=float(fields["at"]),
                mono=float(fields["mono"]),
                kind=str(fields["kind"]),
                host=str(fields["host"]),
                rank=fields.get("rank"),
                data=data,
                of_host=fields.get("of_host"),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None
