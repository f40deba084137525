"""The keeper: starts one process, waits for it, and writes to disk how it ended.

It is forked from the supervisor and lives in a session of its own, so it outlives the supervisor and
whatever ends the rank. It owns nothing but the two files `started` and `exited` of its process.
A shell wrapper would do the same but for one thing: it cannot tell exit code 137 from SIGKILL.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any, Dict, NoReturn, Optional

from orchestrator.supervisor.hostplan import ProcessPlan
from orchestrator.supervisor.linux import become_subreaper, set_title
from orchestrator.supervisor.process import MARK, Identity
from orchestrator.supervisor.rundir import RunDir, write_atomically

_SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "API_KEY", "ACCESS_KEY", "PRIVATE_KEY")
_DISK_RETRY_S = 1.0


def start_keeper(run_dir: RunDir, plan: ProcessPlan, run_id: str) -> int:
    """Fork the keeper of *plan* and return its pid. What follows is told by the files it writes."""
    pid = os.fork()
    if pid == 0:
        try:
            _keep(run_dir, plan, run_id)
        except BaseException as exc:  # nothing may escape into the supervisor's code in this fork
            os.write(2, f"keeper of {plan.name}: {exc!r}\n".encode())
        os._exit(1)
    return pid


def _keep(run_dir: RunDir, plan: ProcessPlan, run_id: str) -> NoReturn:
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    _close_from(3)  # the supervisor's journal and lock among them
    become_subreaper()
    failure_read, failure_write = os.pipe()  # closed by a good exec; carries the reason of a bad one
    pid = os.fork()
    if pid == 0:
        _become(run_dir, plan, run_id, failure_write)
    os.close(failure_write)
    identity = Identity.of(pid)
    _record(
        run_dir.started(plan.name),
        {
            "pid": pid,
            "start_ticks": identity.start_ticks if identity else 0,
            "keeper_pid": os.getpid(),
            "keeper_start_ticks": Identity.of(os.getpid()).start_ticks,  # type: ignore[union-attr]
            "at": time.time(),
            "mono": time.monotonic(),
        },
    )
    set_title(f"ascendrun: keeper of {plan.name} of {run_id}")
    with os.fdopen(failure_read, "rb") as pipe:
        failure = pipe.read().decode("utf-8", "replace")
    _, status, usage = os.wait4(pid, 0)
    _record(run_dir.exited(plan.name), _ending(status, usage, failure))
    try:
        while True:  # stay until the last orphan of the rank is gone, so that the sweep finds it below us
            os.wait()
    except ChildProcessError:
        os._exit(0)


def _become(run_dir: RunDir, plan: ProcessPlan, run_id: str, failure: int) -> NoReturn:
    """Turn this fork into the process of *plan*; on failure say why through the pipe and exit 127."""
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        log = os.open(run_dir.log(plan.folder, plan.log), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _close_from(3, but=failure)
        environment = {**os.environ, **plan.environment, MARK: run_id}
        os.chdir(plan.working_directory or run_dir.work_folder(plan.folder))
        if plan.cpus:
            os.sched_setaffinity(0, plan.cpus)
        _write_env_log(run_dir.env_log(plan.folder), environment)
        os.execvpe(plan.argv[0], plan.argv, environment)
    except BaseException as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else repr(exc)
        culprit = exc.filename if isinstance(exc, OSError) and exc.filename else plan.argv[0]
        os.write(failure, f"{os.fsdecode(culprit)}: {reason}".encode())
    os._exit(127)


def _close_from(first: int, *, but: Optional[int] = None) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= first and int(name) != but:
            try:
                os.close(int(name))
            except OSError:
                continue  # the descriptor that listed the folder


def _write_env_log(path: Path, environment: Dict[str, str]) -> None:
    """Write what the field's scripts get from `env > env.log`, with secrets masked."""
    lines = [
        f"{name}={'***' if any(word in name.upper() for word in _SECRET_WORDS) else value}\n"
        for name, value in sorted(environment.items())
    ]
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.write(file, "".join(lines).encode("utf-8", "surrogateescape"))
    os.close(file)


def _ending(status: int, usage: "resource.struct_rusage", failure: str) -> Dict[str, Any]:
    signalled: Optional[int] = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    return {
        "code": None if signalled else os.WEXITSTATUS(status),
        "signal": signalled,
        "core_dumped": bool(signalled and os.WCOREDUMP(status)),
        "error": failure or None,
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_rss_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "at": time.time(),
        "mono": time.monotonic(),
    }


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
