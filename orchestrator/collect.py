"""Bring together what a run produced, with a manifest that proves it whole."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Optional

from orchestrator.errors import RunDirError
from orchestrator.evaluations import best_of, results_of
from orchestrator.models import BEST
from orchestrator.monitor import current_state
from orchestrator.runstate import RunState
from orchestrator.store import Run
from orchestrator.supervisor.masking import MASK, looks_secret
from orchestrator.supervisor.progress import open_regular
from orchestrator.supervisor.rundir import PLAN, write_atomically

MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
MANIFEST_VERSION = 1
_BLOCK = 1 << 20
_KINDS = {
    ".ckpt": "checkpoint",
    ".safetensors": "checkpoint",
    ".log": "log",
    ".jsonl": "metrics",
    ".json": "record",
    ".png": "picture",
}
_BESIDE_CHECKPOINT = (".json", ".eval.json", ".eval.png")  # what STEM.ckpt has beside it: sidecar, result, its picture
_PRIVATE = ("host_plan.json", "hosts.json", PLAN)  # with the environment of the ranks, secrets and all
_SKIPPED = (".lock", ".pid", ".tmp")  # of use only while the run goes on; or a checkpoint half written


@dataclass(frozen=True)
class CollectedFile:
    path: str  # below the collected folder
    kind: str  # checkpoint | log | metrics | record | picture | other
    size: int  # bytes
    sha256: str
    copied: bool  # False: it was there already, unchanged


def collect(run: Run, destination: Path, tell: "Callable[[CollectedFile], None]") -> "list[CollectedFile]":
    """Copy checkpoints, logs, metrics and evaluation results of *run* below *destination*.

    Each file appears under its name only when it is whole. Unchanged files are not copied again. Files
    of MindSpore's scheduler and of our own supervisor come along: they explain what went wrong.
    Raises RunDirError where *destination* cannot be written or holds another run.
    """
    state = current_state(run)
    results = results_of(run, state)
    _refuse_foreign(run, destination)
    collected = []
    try:
        destination.mkdir(parents=True, exist_ok=True)
        collected.append(_write_plan(run, destination / PLAN))
        tell(collected[0])
        for source, name in [*_files(run.run_dir.root), *_checkpoints_elsewhere(run, state)]:
            try:
                file = _copy(source, destination / name, name)
            except FileNotFoundError:
                continue  # a checkpoint that the run replaced by a newer one just now
            collected.append(file)
            tell(file)
        write_atomically(
            destination / MANIFEST,
            json.dumps(
                {
                    "version": MANIFEST_VERSION,
                    "run": run.plan.name,
                    "run_id": run.plan.run_id,
                    "job": run.plan.spec.name,
                    "outcome": state.outcome.value,
                    "finished": state.finished,
                    "collected_at": time.time(),
                    "backend": run.plan.backend,
                    "ranks": len(run.plan.ranks),
                    "hosts": sorted({rank.host for rank in run.plan.ranks}),
                    "dataset": run.plan.dataset,
                    "command_line": run.plan.command_line,
                    "evaluations": results,
                    "best": best_of(results),
                    "files": [
                        {key: value for key, value in asdict(file).items() if key != "copied"} for file in collected
                    ],
                },
                indent=1,
            )
            + "\n",
        )
        write_atomically(destination / SUMS, "".join(_sum_line(file) for file in collected))
    except OSError as exc:
        raise RunDirError(
            f"cannot collect into {destination}: {exc.filename or ''}: {exc.strerror}; what was copied "
            "stays, and a second `collect` goes on from there"
        ) from exc
    return collected


def _sum_line(file: CollectedFile) -> str:
    """Return a line as sha256sum(1) writes it: it marks names that it had to escape by a leading backslash."""
    name = file.path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if name == file.path else chr(92)}{file.sha256}  {name}\n"


def _refuse_foreign(run: Run, destination: Path) -> None:
    root, target = run.run_dir.root.resolve(), destination.resolve()
    if root == target or root in target.parents:
        raise RunDirError(f"{destination} lies in the run's own folder; choose another -o DIR")
    try:
        other = json.loads((destination / MANIFEST).read_bytes()).get("run_id")
    except FileNotFoundError:
        return
    except NotADirectoryError as exc:
        raise RunDirError(f"{destination}: not a folder") from exc
    except (OSError, ValueError, AttributeError) as exc:
        raise RunDirError(f"{destination / MANIFEST}: not readable ({exc}); choose another -o DIR") from exc
    if other != run.plan.run_id:
        raise RunDirError(f"{destination} holds the run {other}; choose another -o DIR")


def _files(root: Path) -> "Iterator[tuple[Path, str]]":
    """Yield the regular files of a run and their names below it but for the plans; links are not followed out of it."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(folder) / name
            hidden = name.startswith(".") or name in _PRIVATE
            if not hidden and path.suffix not in _SKIPPED and path.is_file() and not path.is_symlink():
                yield path, str(path.relative_to(root))


def _checkpoints_elsewhere(run: Run, state: RunState) -> "Iterator[tuple[Path, str]]":
    """Yield, each once, the checkpoints that the ranks said they wrote outside the run's folder, and what is beside."""
    seen = set()
    for checkpoint in state.checkpoints:
        process = next(
            (one.process for one in run.plan.ranks if one.rank_id == checkpoint["rank"]), run.plan.ranks[0].process
        )
        folder = process.working_directory or run.run_dir.work_folder(process.folder)
        path = Path(os.path.abspath(os.path.join(folder, str(checkpoint.get("path")))))
        if run.run_dir.root in path.parents or _KINDS.get(path.suffix) != "checkpoint" or not path.is_file():
            continue
        beside = [path.with_suffix(suffix) for suffix in _BESIDE_CHECKPOINT] + [path.parent / BEST]
        for one in (path, *beside):
            if one not in seen and one.is_file() and (one == path or not one.is_symlink()):
                seen.add(one)
                # Under its whole path: two of one name, in two folders, are two.
                yield one, f"checkpoints/rank-{checkpoint['rank']}/{one.relative_to(one.anchor)}"


def _write_plan(run: Run, target: Path) -> CollectedFile:
    text = _plan_without_secrets(run)
    content = text.encode("ascii")  # as json.dumps writes it
    changed = not target.is_file() or target.read_bytes() != content
    if changed:
        write_atomically(target, text, mode=0o600)
    return CollectedFile(PLAN, "record", len(content), hashlib.sha256(content).hexdigest(), copied=changed)


def _plan_without_secrets(run: Run) -> str:
    """Return `plan.json` as it may be handed on: masked where a name says that its value is secret."""

    def mask(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: MASK if looks_secret(key) and isinstance(item, str) else mask(item) for key, item in value.items()
            }
        return [mask(item) for item in value] if isinstance(value, list) else value

    return json.dumps(mask(json.loads(run.run_dir.plan.read_bytes())), indent=1) + "\n"


def _copy(source: Path, target: Path, name: str) -> CollectedFile:
    kind = _KINDS.get(source.suffix, "other")
    # One open file is hashed or copied to its end as of now: a log may grow meanwhile, a checkpoint be replaced.
    with open_regular(source) as reader:
        stat = os.fstat(reader.fileno())
        if target.is_file() and target.stat().st_size == stat.st_size:
            digest = _digest(reader, stat.st_size)
            if digest == _digest_of(target):
                return CollectedFile(name, kind, stat.st_size, digest, copied=False)
            reader.seek(0)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as writer:
                digest = _digest(reader, stat.st_size, writer.write)
                size = writer.tell()
                os.fchmod(writer.fileno(), stat.st_mode & 0o777 | 0o200)
            os.utime(temporary, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    return CollectedFile(name, kind, size, digest, copied=True)


def _digest(reader: BinaryIO, size: int, write: "Optional[Callable[[bytes], object]]" = None) -> str:
    """Hash the next *size* bytes of an open file, and hand them to *write*."""
    digest = hashlib.sha256()
    while size > 0 and (block := reader.read(min(_BLOCK, size))):
        digest.update(block)
        if write is not None:
            write(block)
        size -= len(block)
    return digest.hexdigest()


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return _digest(file, os.fstat(file.fileno()).st_size)
