"""The newest whole checkpoint of a run: chosen by what ranks told, proven where it lies, brought to where it lacks.

A rank that writes checkpoints tells of each in its progress file: absolute path, epoch, step, size, best its SHA-256.
Where several ranks write, each a part of the model, a step counts only when all of them have it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from orchestrator.errors import HostError, SpecError
from orchestrator.farhosts import FarHost
from orchestrator.mirror import fetch
from orchestrator.supervisor.rundir import RunDir
from orchestrator.supervisor.whole import problem_of
from orchestrator.transport.base import Transport

_MOST_BESIDE_BYTES = 1 << 20
_HASHING_S = 600.0  # of tens of gigabytes on a slow disk


@dataclass(frozen=True)
class Checkpoint:
    """What a rank told of one."""

    path: str  # on its host
    host: str
    rank: int
    attempt: int
    epoch: int
    step: int
    bytes: int
    sha256: Optional[str] = None
    global_batch: Optional[int] = None  # what all ranks together take in a step; None: not told

    @property
    def place(self) -> "tuple[int, int]":
        return self.epoch, self.step

    def proof(self) -> "dict[str, Any]":
        """Return what tells a whole file from a damaged one, for `supervisor.whole`."""
        return {"path": self.path, "bytes": self.bytes, "sha256": self.sha256}


def told(facts: "Iterable[Mapping[str, Any]]") -> "list[Checkpoint]":
    """Return the checkpoints of `RunState.checkpoints` that can be found again; others are passed over."""
    found = []
    for fact in facts:
        path, rank, epoch, step = (fact.get(key) for key in ("path", "rank", "epoch", "step"))
        if not (isinstance(path, str) and os.path.isabs(path) and isinstance(rank, int) and isinstance(step, int)):
            continue
        size, sha256, batch = fact.get("bytes"), fact.get("sha256"), fact.get("global_batch")
        if type(size) is not int or size < 0:
            continue
        found.append(
            Checkpoint(
                path,
                str(fact.get("host", "")),
                rank,
                int(fact.get("attempt", 1)),
                epoch if isinstance(epoch, int) else 0,
                step,
                size,
                sha256 if isinstance(sha256, str) else None,
                batch if type(batch) is int and batch > 0 else None,
            )
        )
    return found


def newest_first(known: "Sequence[Checkpoint]") -> "list[tuple[Checkpoint, ...]]":
    """Return what a run could go on from, newest first: of each step the checkpoint of every rank that writes any.

    A step that was written again by a later attempt counts as that attempt wrote it.
    """
    by_place: "dict[tuple[int, int], dict[int, Checkpoint]]" = {}
    for one in known:
        by_place.setdefault(one.place, {})[one.rank] = one
    writers: "dict[int, set[int]]" = {}
    for one in known:
        writers.setdefault(one.attempt, set()).add(one.rank)
    sets = [
        tuple(of_rank[rank] for rank in sorted(of_rank))
        for of_rank in by_place.values()
        if set(of_rank) >= writers[max(one.attempt for one in of_rank.values())]
    ]
    return sorted(sets, key=lambda parts: parts[0].place, reverse=True)


def copy_of(run_dir: RunDir, one: Checkpoint, host: FarHost) -> Path:
    """Return where the copy of a checkpoint lies here, or would: no host leads out of its own folders."""
    inside = Path(os.path.relpath(one.path, host.root))
    if inside.parts[0] in host.folders:
        return run_dir.root / host.below / inside
    return run_dir.of_host(host.name) / host.below / "checkpoints" / inside.name


def copies_of(run_dir: RunDir, known: "Sequence[Checkpoint]", hosts: "Sequence[FarHost]") -> "dict[Checkpoint, Path]":
    """Return where copies of checkpoints lie here, or would; *hosts* are those of all attempts."""
    by_place = {(host.name, host.below): host for host in hosts}
    found = {}
    for one in known:
        host = by_place.get((one.host, f"attempts/{one.attempt}")) or by_place.get((one.host, ""))
        if host is not None:
            found[one] = copy_of(run_dir, one, host)
    return found


def beside(path: Path) -> Path:
    """Return where a trainer tells more of its checkpoint, if it does."""
    return path.with_suffix(".json")


def fetch_checkpoint(transport: Transport, one: Checkpoint, target: Path) -> None:
    """Bring a checkpoint, and what is told beside it, from its host here. Raises HostError, RunDirError."""
    source = Path(one.path)
    with suppress(HostError):  # many trainers tell nothing
        fetch(transport, str(beside(source)), beside(target), size=_MOST_BESIDE_BYTES)
    fetch(transport, one.path, target, size=one.bytes)


def settle(
    choices: "Sequence[tuple[Checkpoint, ...]]",
    ranks: "Sequence[tuple[int, str]]",
    places: "Mapping[str, FarHost]",
    transports: "Mapping[str, Transport]",
    copies: "Mapping[Checkpoint, Path]",
    scratch: Path,
) -> "tuple[dict[int, str], Optional[tuple[Checkpoint, ...]]]":
    """Find the newest of *choices* that is whole and bring it to every host that lacks it.

    *ranks* are rank and host of the attempt to come, *places* and *transports* its hosts, *copies* the files that lie
    here of checkpoints; what passes through this machine lies in *scratch* meanwhile. Returns the path for each rank on
    its host, and what was chosen; ({}, None) where nothing is whole. Raises HostError where a host fails meanwhile.
    """
    for parts in choices:
        if len(parts) > 1 and {one.rank for one in parts} != {rank for rank, _ in ranks}:
            continue  # each rank needs its own part: it fits no other number of ranks
        sources = [_whole(one, places, transports, copies.get(one)) for one in parts]
        if all(source is not None for source in sources):
            by_rank = {one.rank: (one, source) for one, source in zip(parts, sources) if source is not None}
            alone = by_rank[parts[0].rank]
            paths: "dict[int, str]" = {}
            brought: "dict[tuple[Checkpoint, str], str]" = {}
            for rank, host in ranks:
                one, source = by_rank.get(rank, alone) if len(parts) > 1 else alone
                if (one, host) not in brought:
                    brought[one, host] = _bring(one, source, host, places, transports, scratch)
                paths[rank] = brought[one, host]
            return paths, parts
    return {}, None


@dataclass(frozen=True)
class _Source:
    """Where a whole checkpoint lies: on a host, or here (None)."""

    host: Optional[str]
    path: str


def _whole(
    one: Checkpoint, places: "Mapping[str, FarHost]", transports: "Mapping[str, Transport]", copy: Optional[Path]
) -> "Optional[_Source]":
    if one.host in transports and _problem_there(one, one.host, one.path, places, transports) is None:
        return _Source(one.host, one.path)
    if copy is not None and problem_of({**one.proof(), "path": str(copy)}) is None:
        return _Source(None, str(copy))
    return None


def _problem_there(
    one: Checkpoint, host: str, path: str, places: "Mapping[str, FarHost]", transports: "Mapping[str, Transport]"
) -> Optional[str]:
    answer = places[host].ask(transports[host], "whole", [{**one.proof(), "path": path}], timeout_s=_HASHING_S)
    problem = json.loads(answer)[0]
    return None if problem is None else str(problem)


def _bring(
    one: Checkpoint,
    source: "_Source",
    host: str,
    places: "Mapping[str, FarHost]",
    transports: "Mapping[str, Transport]",
    scratch: Path,
) -> str:
    """See that *host* has the checkpoint; return its path there. Raises HostError."""
    if source.host == host:
        return source.path
    if _problem_there(one, host, one.path, places, transports) is None:
        return one.path  # a file system that they share
    base = places[host].root.partition("/attempts/")[0]
    target = f"{base}/resume/{one.epoch}_{one.step}-rank{one.rank}/{os.path.basename(one.path)}"
    if _problem_there(one, host, target, places, transports) is None:
        return target  # from an earlier restart
    here = Path(source.path)
    if source.host is not None:
        here = scratch / os.path.basename(one.path)
        fetch_checkpoint(transports[source.host], replace(one, path=source.path), here)
    for path in (here, beside(here)):
        if path.exists():
            transports[host].put_file(path, os.path.join(os.path.dirname(target), path.name))
    problem = _problem_there(one, host, target, places, transports)
    if problem:
        raise HostError(f"{host}: {target} did not arrive whole: {problem}")
    return target


def in_file(path: Path) -> str:
    """Return the absolute path of a checkpoint that the user names. Raises SpecError where it is none or damaged."""
    if not path.is_file():
        raise SpecError(f"--resume {path}: no run of that name and no checkpoint file there")
    sidecar = path.with_suffix(".json")
    proof: "dict[str, Any]" = {"path": str(path)}
    if sidecar.is_file():
        try:
            said = json.loads(sidecar.read_bytes())
            proof |= {key: said[key] for key in ("bytes", "sha256") if key in said}
        except (OSError, ValueError, TypeError):
            pass  # the sidecar is damaged, which says nothing of the checkpoint
    problem = problem_of(proof)
    if problem:
        raise SpecError(f"--resume {path}: {problem}; name an older checkpoint, or the run, which finds one")
    return str(path.absolute())
