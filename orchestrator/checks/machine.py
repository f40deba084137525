"""What is wrong with a host by itself, but for its devices."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any, Optional

from orchestrator.checks.facts import Fault, HostFacts
from orchestrator.findings import Severity
from orchestrator.jobspec import JobSpec

_GB = 10**9
_FULL_BYTES, _NARROW_BYTES = _GB, 5 * _GB  # of the disk of the work folder; a checkpoint of a large net has gigabytes
_FEW_INODES = 1_000
_LEAST_MEMORY_BYTES, _SMALL_MEMORY = _GB, 0.05
_LEAST_SHM_BYTES, _SMALL_SHM_BYTES = 65 << 20, _GB  # a container that nobody asked has 64 MiB
_LEAST_FILES, _FEW_FILES = 1024, 4096
_LEAST_PROCESSES, _FEW_PROCESSES = 1024, 4096
_FRAMEWORKS = ("mindspore", "mindspore-ascend")


def faults_of(host: HostFacts, job: Optional[JobSpec] = None) -> "Iterator[Fault]":
    """Yield what is wrong with a host by itself; *job*: what is to run there."""
    yield from _software(host, job)
    yield from _memory(host)
    yield from _disk(host)
    yield from _limits(host)
    yield from _network(host)
    yield from _leftovers(host)


def _fault(host: HostFacts, check: str, code: str, bad: bool, problem: str, remedy: str, *commands: str) -> Fault:
    return Fault(host.name, check, code, Severity.ERROR if bad else Severity.WARNING, problem, remedy, commands)


def _software(host: HostFacts, job: Optional[JobSpec]) -> "Iterator[Fault]":
    told = host.told
    if job is not None and job.framework == "mindspore" and not any(name in told["packages"] for name in _FRAMEWORKS):
        yield _fault(
            host, "software", "mindspore-missing", True,
            f"MindSpore is not installed for its Python {told['python']}, and job {job.name} needs it",
            "install it there, or name the Python that has it as `python:` in the hosts file",
            "python3 -m pip install mindspore",
        )  # fmt: skip
    if not told["program_there"]:
        yield _fault(
            host, "software", "program-missing", True,
            f"there is no program {told['program']} in its PATH, which the job runs",
            "install it there, or bring it into PATH by `setup:` in the hosts file",
        )  # fmt: skip


def _memory(host: HostFacts) -> "Iterator[Fault]":
    total, available = host.told["memory"]["total"], host.told["memory"]["available"]
    if total and (available < _LEAST_MEMORY_BYTES or available < _SMALL_MEMORY * total):
        yield _fault(
            host, "memory", "memory-short", available < _LEAST_MEMORY_BYTES / 4,
            f"{_size(available)} of {_size(total)} of memory are to be had",
            "see what takes it, and end what is not needed",
            "ps aux --sort=-rss | head -n 15",
        )  # fmt: skip


def _disk(host: HostFacts) -> "Iterator[Fault]":
    disk: "Optional[dict[str, Any]]" = host.told["disk"]
    if disk is None:
        return
    folder = shlex.quote(disk["folder"])
    if not disk["writable"]:
        yield _fault(
            host, "disk", "folder-not-writable", True,
            f"{disk['folder']} cannot be written by {host.told['user']}",
            "give the folder to that user, or name another as `work_folder:` in the hosts file",
            f"ls -ld {folder}; findmnt -T {folder}",
        )  # fmt: skip
    if disk["free"] < _NARROW_BYTES:
        yield _fault(
            host, "disk", "disk-full", disk["free"] < _FULL_BYTES,
            f"{_size(disk['free'])} of {_size(disk['total'])} are free on the disk of {disk['folder']}",
            "remove what is not needed, old runs and checkpoints first, or name a `work_folder:` elsewhere",
            f"du -xh --max-depth=2 {folder} | sort -h | tail -n 15",
        )  # fmt: skip
    if disk["inodes"] > 0 and disk["free_inodes"] < _FEW_INODES:
        yield _fault(
            host, "disk", "inodes-few", True,
            f"{disk['free_inodes']} more files fit on the disk of {disk['folder']}, whatever room it has (inodes)",
            "remove folders with many small files, such as caches and old logs",
            f"du -x --inodes --max-depth=2 {folder} | sort -n | tail -n 15",
        )  # fmt: skip


def _limits(host: HostFacts) -> "Iterator[Fault]":
    limits, shm = host.told["limits"], host.told["shm"]
    if limits["nofile"] is not None and limits["nofile"] < _FEW_FILES:
        yield _fault(
            host, "limits", "open-files-few", limits["nofile"] < _LEAST_FILES,
            f"a process may open {limits['nofile']} files (ulimit -n)",
            "raise it in /etc/security/limits.conf, or by `ulimit -n 65536` in `setup:` of the hosts file",
            f"echo '{host.told['user']} - nofile 65536' >> /etc/security/limits.conf",
        )  # fmt: skip
    if limits["nproc"] is not None and limits["nproc"] < _FEW_PROCESSES:
        yield _fault(
            host, "limits", "processes-few", limits["nproc"] < _LEAST_PROCESSES,
            f"{host.told['user']} may have {limits['nproc']} processes and threads (ulimit -u)",
            "raise it in /etc/security/limits.conf",
            f"echo '{host.told['user']} - nproc 65536' >> /etc/security/limits.conf",
        )  # fmt: skip
    if shm is None or min(shm["free"], shm["total"]) < _SMALL_SHM_BYTES:
        free = 0 if shm is None else shm["free"]
        yield _fault(
            host, "limits", "shared-memory-small", free < _LEAST_SHM_BYTES,
            f"{_size(free)} are free in /dev/shm, through which data loaders hand over batches",
            "give it more: `--shm-size=64g` for a container, a larger tmpfs elsewhere",
            "mount -o remount,size=50% /dev/shm",
        )  # fmt: skip


def _network(host: HostFacts) -> "Iterator[Fault]":
    if (found := host.interface()) is not None and found[1]["state"] == "down":
        yield _fault(
            host, "network", "interface-down", True,
            f"interface {found[0]} is down", "bring it up", f"ip link set {found[0]} up",
        )  # fmt: skip
    if host.told["port_problem"] is not None:
        yield _fault(
            host, "ports", "port-taken", True,
            f"port {host.told['port']} cannot be listened on: {host.told['port_problem']}",
            "end what listens there, or choose another port",
            f"ss -ltnp 'sport = :{host.told['port']:.0f}'",
        )  # fmt: skip


def _leftovers(host: HostFacts) -> "Iterator[Fault]":
    left = host.told["leftovers"]
    if left:
        named = ", ".join(f"pid {one[0]} of run {one[2]}" for one in left[:3])
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        yield _fault(
            host, "leftovers", "leftovers", False,
            f"earlier runs left {len(left)} process{'es' * (len(left) != 1)}: {named}{more}",
            "end them: `ascendrun clean` on that host, or with its hosts file",
            "ascendrun clean --yes",
        )  # fmt: skip


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
