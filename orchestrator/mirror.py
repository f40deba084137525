"""Bring here what a run has written on far hosts, under the same names: readers need not know where it lived."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from orchestrator.errors import HostError, RunDirError
from orchestrator.farhosts import FarHost, FarHosts
from orchestrator.inventory import HostEntry
from orchestrator.store import Run
from orchestrator.supervisor.ownership import is_ours
from orchestrator.supervisor.rundir import RunDir
from orchestrator.transport.base import Frames, Transport

_LEFT_THERE = ("host_plan.json", "supervisor.lock")  # of use to that host alone
_WAIT_S = 60.0
_MOST_BLOCK_BYTES = 1 << 20


def is_far(run: Run) -> bool:
    """Tell whether a run lives on far hosts, so that its paths and its Python are theirs."""
    return run.run_dir.hosts.exists()


def is_here(run: Run, host: FarHost) -> bool:
    """Tell whether what a host has of an attempt lies in the run folder itself: the host is this machine."""
    return Path(host.root) == run.run_dir.root / host.below


def bring(run: Run) -> "list[HostError]":
    """Bring here what is new or changed on the far hosts; return why some could not be asked. None are far: nothing.

    Raises RunDirError where it cannot be written here.
    """
    far = FarHosts.of(run.run_dir)
    if far is None:
        return []
    if not is_ours(run.run_dir):  # its record says what to dial, and what to run there or here
        return [HostError(f"{run.run_dir.root} is another user's, or others can write to it: its hosts are not asked")]

    def bring_all(entry: HostEntry, transport: Transport) -> None:
        for host in far.of_name(entry.name):
            if not is_here(run, host):
                _bring_from(run, host, transport)

    with far.connect() as fleet:
        told = fleet.each(bring_all)
    return [one for one in told.values() if isinstance(one, HostError)]


@contextmanager
def flowing(run: Run, paths: "Sequence[Path]") -> "Iterator[Callable[[], bool]]":
    """Let files of the run, by their paths here, grow as they grow on the far hosts; give a function that says whether.

    A host that cannot be reached is left out: its files stay as they are.
    """
    far = FarHosts.of(run.run_dir)
    if far is None or not is_ours(run.run_dir):
        yield lambda: False
        return
    threads: "list[threading.Thread]" = []
    attempt = RunDir(run.run_dir.root / run.plan.below)
    names = [str(path.relative_to(attempt.root)) for path in paths]
    owners = {os.path.basename(rank.process.folder): rank.host for rank in run.plan.ranks}
    first = far.hosts[0].name  # has the scheduler
    with far.connect() as fleet:
        for host in far.hosts:
            of_host = [name for name in names if owners.get(Path(name).parts[0], first) == host.name]
            transport = next((one.transport for one in fleet.connected if one.entry.name == host.name), None)
            if of_host and transport is not None and not is_here(run, host):
                thread = threading.Thread(target=_flow, args=(attempt, host, transport, of_host), daemon=True)
                thread.start()
                threads.append(thread)
        yield lambda: any(thread.is_alive() for thread in threads)


@dataclass(frozen=True)
class _Listed:
    """A file of a run on a far host, as that host says."""

    name: str  # below the run's folder there
    size: int  # bytes
    changed_ns: int
    mode: int


def _listed(line: bytes) -> "Optional[_Listed]":
    """Return what a line of `farside files` says; None for one that no host of ours would say."""
    try:
        name, size, changed_ns, mode = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return None
    numbers_fit = all(type(one) is int and 0 <= one < 1 << 63 for one in (size, changed_ns, mode))
    if not (isinstance(name, str) and name and "\0" not in name and numbers_fit):
        return None
    return _Listed(name, size, changed_ns, mode & 0o777)


def _place_of(name: str, folders: "frozenset[str]", run_dir: RunDir, host: str) -> "Optional[Path]":
    """Return where a file of *host* belongs here; None: it stays there.

    Nothing that a far host says leads out of the folders of its own ranks, *folders*, or into another host's. What lies
    in the run's folder itself every host has under the same name.
    """
    parts = Path(name).parts
    if not parts or os.path.isabs(name) or ".." in parts or name in _LEFT_THERE:
        return None
    if len(parts) == 1:
        return run_dir.of_host(host) / name
    return run_dir.root / name if parts[0] in folders else None


def _bring_from(run: Run, host: FarHost, transport: Transport) -> None:
    attempt = RunDir(run.run_dir.root / host.below)
    folders = frozenset(host.folders)
    for line in host.ask(transport, "files").splitlines():
        listed = _listed(line)
        target = _place_of(listed.name, folders, attempt, host.name) if listed else None
        if listed is None or target is None:
            continue
        try:
            stat = target.stat()
            if (stat.st_size, stat.st_mtime_ns) == (listed.size, listed.changed_ns):
                continue
        except OSError:
            pass  # not here yet
        fetch(
            transport,
            f"{host.root}/{listed.name}",
            target,
            size=listed.size,
            mode=listed.mode,
            changed_ns=listed.changed_ns,
        )


def fetch(
    transport: Transport,
    source: str,
    target: Path,
    *,
    size: int,
    mode: int = 0o600,
    changed_ns: Optional[int] = None,
) -> None:
    """Bring *size* bytes of a file of a host here, in one step. Raises HostError, RunDirError."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if size > free:
            raise RunDirError(f"{target}: of {size / 1e6:.1f} MB, and the disk has {free / 1e6:.1f} MB free")
        try:
            left = size
            with temporary.open("wb") as file, closing(transport.get(source)) as blocks:
                while left > 0 and (block := next(blocks, b"")):
                    file.write(block[:left])
                    left -= len(block)
            temporary.chmod(mode | 0o200)
            if changed_ns is not None:
                os.utime(temporary, ns=(changed_ns, changed_ns))
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as exc:
        raise RunDirError(f"cannot write {target}: {exc.strerror}") from exc


def _flow(run_dir: RunDir, host: FarHost, transport: Transport, names: "Sequence[str]") -> None:
    """Append to the files here what those of *host* have and gain, until its part of the run is over."""
    offsets = {name: _size(run_dir.root / name) for name in names}
    try:
        with transport.stream(host.words("tail", host.root)) as stream:
            stream.write(json.dumps(offsets).encode() + b"\n")
            frames = Frames(stream)
            while (header := frames.line(_WAIT_S)) is not None:
                if not header:
                    continue  # it lives
                name, length = json.loads(header)
                if not 0 <= length <= _MOST_BLOCK_BYTES:
                    return
                block = frames.take(length, _WAIT_S)
                _write_at(run_dir.root / name, offsets[name], block)
                offsets[name] += len(block)
    except (HostError, OSError, ValueError, LookupError, TypeError, RecursionError):
        return  # what came so far is here; the next look brings the rest


def _write_at(path: Path, offset: int, block: bytes) -> None:
    """Write to a file at its place: whoever else brings the same file meanwhile writes the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with os.fdopen(handle, "wb") as file:
        file.seek(offset)
        file.write(block)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
