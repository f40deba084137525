"""Processes of runs that are no more, or that nobody can watch over: what earlier runs left on this host.

They are known by the marks that a keeper gives whatever it starts, and are ours alone: of this user, in this container.
A run that is watched over, or that the next `status` would take over, has none.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Collection, Dict, List, NamedTuple, Optional, Set, Tuple

from orchestrator.supervisor import events, ownership
from orchestrator.supervisor.hostplan import HostPlan
from orchestrator.supervisor.journal import read_events
from orchestrator.supervisor.process import FOLDER, MARK, Identity, Place, Stat, all_processes
from orchestrator.supervisor.rundir import RunDir
from orchestrator.supervisor.sweep import sweep

_MOST_BYTES = 1 << 20  # of an environment, or a command line


class Leftover(NamedTuple):
    """A process that an earlier run left behind."""

    pid: int
    start_ticks: int
    run: str  # its name
    rank: Optional[int]  # None: a scheduler
    age_s: float
    command: str
    reason: str  # why nobody watches over it

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.start_ticks)


def find() -> List[Leftover]:
    """Return what earlier runs left on this host, by pid. Whoever asks, and whoever started that, is none of it."""
    processes = all_processes()
    reasons: Dict[Tuple[str, str], Optional[str]] = {}
    found = []
    for pid in sorted(set(processes) - _above(os.getpid(), processes)):
        environment = _environment(pid)
        run_id, folder = environment.get(MARK), environment.get(FOLDER)
        if not run_id or not folder or not _is_ours(pid):
            continue
        if (folder, run_id) not in reasons:
            reasons[folder, run_id] = _why_abandoned(RunDir(Path(folder)), run_id)
        reason = reasons[folder, run_id]
        if reason is not None:
            rank = environment.get("RANK_ID", "")
            found.append(
                Leftover(
                    pid,
                    processes[pid].start_ticks,
                    environment.get("ASCENDRUN_RUN_NAME", run_id),
                    int(rank) if rank.isdecimal() else None,
                    time.clock_gettime(time.CLOCK_BOOTTIME) - processes[pid].start_ticks / os.sysconf("SC_CLK_TCK"),
                    _read(pid, "cmdline").replace(b"\0", b" ").decode("utf-8", "replace").strip(),
                    reason,
                )
            )
    return found


def end(chosen: Collection[Identity], grace_s: float) -> Set[int]:
    """End those of *chosen* that are leftovers still: SIGTERM, SIGKILL after the grace. Return what cannot be ended."""
    deadline = time.monotonic() + grace_s
    wanted = set(chosen)
    return sweep(lambda: {one.pid for one in find() if one.identity in wanted}, lambda: deadline)


def _why_abandoned(run_dir: RunDir, run_id: str) -> Optional[str]:
    """Say why nobody watches over a run any more; None: somebody does, or can, or it cannot be told."""
    try:
        plan = HostPlan.from_json(run_dir.host_plan.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return "its run folder was removed"
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if plan.run_id != run_id:
        return "its run folder was removed"  # and another run made its own there
    owner, here = ownership.owner(run_dir), Place.here()
    same_pids = owner is not None and (owner.place.boot, owner.place.namespace) == (here.boot, here.namespace)
    if owner is not None and same_pids and owner.identity.is_alive():  # also where the machine got another name
        return None
    try:
        if any(event.kind == events.RUN_FINISHED for event in read_events(run_dir.journal)[0]):
            return "its run has ended"
    except OSError:
        return None
    return None if ownership.may_adopt(run_dir) else "its supervisor is gone, and none may take its place"


def _above(pid: int, processes: Dict[int, Stat]) -> Set[int]:
    """Return *pid* and all that it descends from."""
    found: Set[int] = set()
    while pid in processes and pid not in found:
        found.add(pid)
        pid = processes[pid].parent
    return found


def _is_ours(pid: int) -> bool:
    try:
        return (
            os.stat(f"/proc/{pid}").st_uid == os.geteuid()
            and os.stat(f"/proc/{pid}/ns/pid").st_ino == os.stat("/proc/self/ns/pid").st_ino
        )
    except OSError:
        return False  # it ended


def _environment(pid: int) -> Dict[str, str]:
    variables = _read(pid, "environ").decode("utf-8", "surrogateescape").split("\0")
    return dict(variable.split("=", 1) for variable in variables if "=" in variable)


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read(_MOST_BYTES)
    except OSError:
        return b""
