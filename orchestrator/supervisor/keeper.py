"""The keeper: starts processes, waits for them, and writes to disk how they ended.

It is forked from the supervisor and lives in a session of its own, so it outlives the supervisor and
whatever ends its ranks. It owns nothing but the files `started` and `exited` of its processes.
A shell wrapper for each rank would do the same but for one thing: it cannot tell exit code 137 from SIGKILL.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any, Collection, Dict, Mapping, NoReturn, Optional, Sequence

from orchestrator.supervisor.hostplan import ProcessPlan
from orchestrator.supervisor.linux import become_subreaper, close_from, set_title
from orchestrator.supervisor.masking import masked
from orchestrator.supervisor.process import FOLDER, MARK, Identity, Place
from orchestrator.supervisor.rundir import RunDir, write_atomically

_DISK_RETRY_S = 1.0
_DEAF_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)  # a keeper ends with its rank, not before


def start_keeper(run_dir: RunDir, plans: Sequence[ProcessPlan], run_id: str) -> int:
    """Fork a keeper that starts *plans*; return its pid. What follows is told by the files it writes.

    Raises OSError where this user may have no more processes.
    """
    pid = os.fork()
    if pid == 0:
        try:
            _keep(run_dir, plans, run_id)
        except BaseException as exc:  # nothing may escape into the supervisor's code in this fork
            os.write(2, f"keeper: {exc!r}\n".encode())
        os._exit(1)
    return pid


def _keep(run_dir: RunDir, plans: Sequence[ProcessPlan], run_id: str) -> NoReturn:
    gc.disable()  # a collection would touch, and so copy, every page that is shared with the supervisor
    os.setsid()
    for number in _DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    close_from(3)  # the supervisor's journal and lock among them
    become_subreaper()
    names = {}
    cpus = os.sched_getaffinity(0)
    for plan in plans:
        try:
            pid = _spawn(run_dir, plan, run_id, cpus)
        except OSError as exc:
            culprit = os.fsdecode(exc.filename) if exc.filename else plan.argv[0]
            _record(run_dir.exited(plan.name), _not_started(f"{culprit}: {exc.strerror}"))
            continue
        names[pid] = plan.name
        _record(run_dir.started(plan.name), _start_facts(pid))
    set_title(f"ascendrun: keeper of {', '.join(names.values())} of {run_id}")
    os.chdir("/")
    try:
        while True:  # to the last orphan of a rank, so that the sweep finds it below us
            pid, status, usage = os.wait4(-1, 0)
            if pid in names:
                _record(run_dir.exited(names.pop(pid)), _ending(status, usage))
    except ChildProcessError:
        os._exit(0)


def _spawn(run_dir: RunDir, plan: ProcessPlan, run_id: str, cpus: Collection[int]) -> int:
    """Start the process of *plan* in a process group of its own and return its pid. Raises OSError.

    *cpus* are those of a plan that names none.
    """
    environment = {**os.environ, **plan.environment, MARK: run_id, FOLDER: str(run_dir.root)}
    for name in plan.unset:
        environment.pop(name, None)
    _write_env_log(run_dir.env_log(plan.folder), environment)
    os.chdir(plan.working_directory or run_dir.work_folder(plan.folder))
    os.sched_setaffinity(0, plan.cpus or cpus)  # inherited by what is spawned
    log = os.open(run_dir.log(plan.folder, plan.log), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    os.environ["PATH"] = environment.get("PATH", os.defpath)  # where posix_spawnp looks for the program
    try:
        return os.posix_spawnp(
            plan.argv[0],
            plan.argv,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setpgroup=0,
            setsigmask=(),
            setsigdef=(*_DEAF_TO, signal.SIGPIPE, signal.SIGXFSZ),
        )
    finally:
        os.close(log)


def _start_facts(pid: int) -> Dict[str, Any]:
    rank, keeper = Identity.of(pid), Identity.of(os.getpid())
    assert keeper is not None, "we are alive"
    return {
        "pid": pid,
        "start_ticks": rank.start_ticks if rank else 0,  # a zombie at worst: it is ours to wait for
        "keeper_pid": keeper.pid,
        "keeper_start_ticks": keeper.start_ticks,
        "place": Place.here(),
        "at": time.time(),
        "mono": time.monotonic(),
    }


def _write_env_log(path: Path, environment: Mapping[str, str]) -> None:
    """Write what the field's scripts get from `env > env.log`, with secrets masked."""
    lines = [f"{name}={value}\n" for name, value in sorted(masked(environment).items())]
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.write(file, "".join(lines).encode("utf-8", "surrogateescape"))
    os.close(file)


def _ending(status: int, usage: "resource.struct_rusage") -> Dict[str, Any]:
    signalled: Optional[int] = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    return {
        "code": None if signalled else os.WEXITSTATUS(status),
        "signal": signalled,
        "core_dumped": bool(signalled and os.WCOREDUMP(status)),
        "error": None,
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_rss_bytes": usage.ru_maxrss * 1024,  # Linux counts in KiB
        "at": time.time(),
        "mono": time.monotonic(),
    }


def _not_started(reason: str) -> Dict[str, Any]:
    return {"code": None, "signal": None, "error": reason, "at": time.time(), "mono": time.monotonic()}


def _record(path: Path, facts: Dict[str, Any]) -> None:
    """Write *facts*; on a full disk try again until there is room: an exit code must not be lost."""
    while True:
        try:
            write_atomically(path, json.dumps(facts))
            return
        except FileNotFoundError:
            os._exit(0)  # the run folder was removed: nobody will ask any more
        except OSError:
            time.sleep(_DISK_RETRY_S)  # there is no event for "room on the disk again"
