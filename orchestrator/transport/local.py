"""The machine we run on: what it offers, and how a supervisor starts on it."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

from orchestrator.errors import HostError, RunDirError
from orchestrator.inventory import Device, Host
from orchestrator.supervisor.main import supervise, supervisor_identity
from orchestrator.supervisor.progress import last_lines
from orchestrator.supervisor.rundir import RunDir

CPU_DEVICES = 8  # ranks that a host without Ascend takes at least: as many as an Ascend server has devices
_READY = b"+"


def this_host(backend: str) -> Host:
    """Return this machine with its devices: Ascend's, or with *backend* `auto` CPU ones where it has none.

    Raises HostError for backend `ascend` on a machine without Ascend devices.
    """
    ascend = _ascend_device_ids()
    if backend == "ascend" and not ascend:
        raise HostError("this machine has no Ascend device (no /dev/davinci0); use --backend cpu, or auto")
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    if backend == "cpu" or not ascend:
        backend, ids = "cpu", list(range(max(CPU_DEVICES, len(cpus))))
    else:
        backend, ids = "ascend", ascend
    return Host(
        name=socket.gethostname(),
        address="127.0.0.1",
        backend=backend,
        devices=tuple(Device(device_id) for device_id in ids),
        cpus=cpus,
        cpu_flags=_cpu_flags(),
    )


def _ascend_device_ids() -> "list[int]":
    names = (re.fullmatch(r"davinci(\d+)", name) for name in os.listdir("/dev"))
    return sorted(int(match.group(1)) for match in names if match)


def _cpu_flags() -> "frozenset[str]":
    """Return the instruction sets of the CPU as Linux names them (`flags` on x86, `Features` on Arm)."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() in ("flags", "Features"):
                    return frozenset(value.split())
    except OSError:
        pass  # no /proc: then nothing is known of the CPU, and nothing is tuned to it
    return frozenset()


def free_ports(count: int, address: str = "127.0.0.1") -> "list[int]":
    """Return *count* different TCP ports that are free on *address* now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((address, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def is_port_free(port: int, address: str = "127.0.0.1") -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((address, port))
        except OSError:
            return False
    return True


def start_supervisor(run_dir: RunDir) -> None:
    """Start a supervisor for *run_dir* that outlives us; return once it is under way.

    It is forked, not executed: that spares the start of a second interpreter, which is a third of the
    time that eight ranks take to come up. Raises HostError with the supervisor's own words where it
    could not begin; RunDirError where its log cannot be written.
    """
    try:
        log = os.open(run_dir.supervisor_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise RunDirError(f"{run_dir.supervisor_log}: {exc.strerror}") from exc
    ready_read, ready_write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            os.close(ready_read)
            os.setsid()
            if os.fork() == 0:  # the parent of the supervisor ends at once, so init will reap it
                os._exit(_supervise_detached(run_dir, log, ready_write))
        finally:
            os._exit(0)
    os.close(ready_write)
    os.close(log)
    os.waitpid(child, 0)
    with os.fdopen(ready_read, "rb") as pipe:
        ready = pipe.read(1)
    identity = supervisor_identity(run_dir)
    if ready != _READY and (identity is None or not identity.is_alive()):
        reason = " ".join(last_lines(run_dir.supervisor_log, 1)) or "it left no word"
        raise HostError(f"the supervisor could not start: {reason} (log: {run_dir.supervisor_log})")


def _supervise_detached(run_dir: RunDir, log: int, ready: int) -> int:
    null = os.open(os.devnull, os.O_RDWR)
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)
    os.chdir("/")  # a supervisor must not keep somebody's file system busy

    def tell_ready() -> None:
        os.write(ready, _READY)
        os.close(ready)

    sys.stdout = sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)
    return supervise(run_dir, tell_ready)


def follow_folders(run_dir: RunDir) -> "list[Path]":
    """Return the folders in which news of a run appears."""
    return [run_dir.root, *(path for path in run_dir.root.iterdir() if path.is_dir() and path != run_dir.evals)]
