"""Bring here what a run has written on far hosts, under the same names: readers need not know where it lived."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import HostError
from orchestrator.farhosts import FarHost, FarHosts
from orchestrator.store import Run
from orchestrator.supervisor.rundir import RunDir
from orchestrator.transport.base import Frames, Transport

_LEFT_THERE = ("processes", "requests", "code", "host_plan.json", "supervisor.lock")  # of use to that host alone
_WAIT_S = 60.0


def bring(run: Run) -> "list[HostError]":
    """Bring here what is new or changed on the far hosts; return why some could not be asked. None are far: nothing."""
    far = FarHosts.of(run.run_dir)
    if far is None:
        return []
    hosts = far.by_name()
    with far.connect() as fleet:
        told = fleet.each(lambda entry, transport: _bring_from(run.run_dir, hosts[entry.name], transport))
    return [one for one in told.values() if isinstance(one, HostError)]


@contextmanager
def flowing(run: Run, paths: "Sequence[Path]") -> "Iterator[Callable[[], bool]]":
    """Let files of the run, by their paths here, grow as they grow on the far hosts; give a function that says whether.

    A host that cannot be reached is left out: its files stay as they are.
    """
    far = FarHosts.of(run.run_dir)
    if far is None:
        yield lambda: False
        return
    threads: "list[threading.Thread]" = []
    names = [str(path.relative_to(run.run_dir.root)) for path in paths]
    owners = {rank.process.folder: rank.host for rank in run.plan.ranks}
    first = far.hosts[0].name  # has the scheduler
    with far.connect() as fleet:
        for host in far.hosts:
            of_host = [name for name in names if owners.get(Path(name).parts[0], first) == host.name]
            transport = next((one.transport for one in fleet.connected if one.entry.name == host.name), None)
            if of_host and transport is not None:
                thread = threading.Thread(target=_flow, args=(run.run_dir, host, transport, of_host), daemon=True)
                thread.start()
                threads.append(thread)
        yield lambda: any(thread.is_alive() for thread in threads)


def _bring_from(run_dir: RunDir, host: FarHost, transport: Transport) -> None:
    for line in host.ask(transport, "files").splitlines():
        name, size, changed_ns, mode = json.loads(line)
        parts = Path(name).parts
        if os.path.isabs(name) or ".." in parts or parts[0] in _LEFT_THERE:
            continue  # nothing that a far host says may lead out of the run's folder
        # what lies in the folder itself every host has under the same name
        target = run_dir.root / name if len(parts) > 1 else run_dir.of_host(host.name) / name
        try:
            stat = target.stat()
            if (stat.st_size, stat.st_mtime_ns) == (size, changed_ns):
                continue
        except OSError:
            pass  # not here yet
        _fetch(transport, f"{host.root}/{name}", target, changed_ns, mode)


def _fetch(transport: Transport, source: str, target: Path, changed_ns: int, mode: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            for block in transport.get(source):
                file.write(block)
        temporary.chmod(mode | 0o200)
        os.utime(temporary, ns=(changed_ns, changed_ns))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


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
                if name not in offsets:
                    return
                path = run_dir.root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("ab") as file:
                    file.write(frames.take(int(length), _WAIT_S))
    except (HostError, OSError, ValueError):
        return  # what came so far is here; the next look brings the rest


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
