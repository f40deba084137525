"""Explain why a job failed: bring its logs, of any launcher, before the rules, and say what they come to."""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Optional, cast

from orchestrator.diagnosis.judging import Endings, Evidence, Explanation, Log, explain
from orchestrator.diagnosis.places import Place, place_of_path
from orchestrator.diagnosis.rules import Rules
from orchestrator.diagnosis.scanning import Block, Scanner
from orchestrator.errors import RunNotFoundError
from orchestrator.runstate import RankPhase, RunState
from orchestrator.store import Run
from orchestrator.supervisor.progress import open_regular
from orchestrator.verdict import verdict

_BLOCK = 1 << 20
_HEAD = 1 << 13
_MOST_FILES = 100_000
_MOST_DEPTH = 24
_ALL_BYTES = 64 << 20  # of logs that together are no larger every line is looked at
_ENDS_BYTES = 32 << 20  # of larger ones so much is looked at line by line: where they begin and end
_LEAST_END, _MOST_END = 64 << 10, 4 << 20
_PACKED: "dict[bytes, Callable[..., Any]]" = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_NO_LOGS = frozenset(
    """.py .pyc .json .jsonl .yaml .yml .toml .cfg .ini .conf .md .rst .html .css .js .csv .tsv .ckpt .pt .pth
    .safetensors .npy .npz .bin .mindrecord .db .tfrecord .mindir .onnx .air .om .pb .ir .dat .so .o .a .whl .png .jpg
    .jpeg .gif .pdf .svg .zip .tar .tgz .7z .sh .cc .cpp .c .h .hpp .ipynb .lock .pid""".split()  # noqa: SIM905
)
_NOT_OF_RANKS = frozenset({"code", "processes", "requests", "evals"})  # folders of a run that hold no logs
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, OSError)


@dataclass(frozen=True)
class Report:
    """An explanation, and what it was made of."""

    explanation: Explanation
    lines: Mapping[Evidence, int]  # the number of each line of evidence, from 1
    files: int
    size_bytes: int  # read, unpacked
    notes: tuple[str, ...] = ()  # files that could not be read


@dataclass(frozen=True)
class _File:
    path: Path
    name: str  # as people know it
    place: Place
    size_bytes: int  # on disk


@functools.cache
def load_rules() -> Rules:
    """Return the rules that come with ascendrun."""
    from importlib import resources

    file = resources.files("orchestrator.diagnosis").joinpath("rules.yaml")
    return Rules.parse(file.read_text(encoding="utf-8"), file.name, ours=True)


def explain_paths(paths: "Sequence[str]") -> Report:
    """Explain by all logs that *paths*, files and folders, hold.

    Raises RunNotFoundError for a path that is not there, and where there is no log.
    """
    files: "list[_File]" = []
    notes: "list[str]" = []
    for name in paths:
        path = Path(name).expanduser()
        if path.is_dir():
            files += _files_below(path, name if len(paths) > 1 else "", notes)
        else:
            files.append(_named_file(path, name))
    if not files:
        raise RunNotFoundError(f"{', '.join(paths)}: no logs in there")
    report = _report(files, Endings(), notes)
    if not report.files:
        raise RunNotFoundError("; ".join(report.notes) or f"{', '.join(paths)}: no text in there")
    return report


def explain_run(run: Run, state: RunState) -> Report:
    """Explain by the logs of the last attempt of *run*, and by how its supervisors saw its ranks end."""
    ranks = {rank.process.folder.rpartition("/")[2]: rank.rank_id for rank in run.plan.ranks}
    notes: "list[str]" = []
    files = []
    for file in _files_below(run.run_dir.root / run.plan.below, run.plan.below, notes):
        folder, _, rest = os.path.relpath(file.name, run.plan.below or ".").partition("/")
        if folder in _NOT_OF_RANKS or not rest:
            continue
        place = Place(ranks[folder], file.place.device, file.place.pid) if folder in ranks else file.place
        files.append(_File(file.path, file.name, place, file.size_bytes))
    return _report(files, _endings(state), notes)


def _endings(state: RunState) -> Endings:
    failed = (RankPhase.FAILED, RankPhase.LOST)
    found = verdict(state)
    return Endings(
        first=found.rank if found is not None and found.rank is not None else state.first_failure,
        of_rank={rank.rank_id: rank.ending() for rank in state.ranks if rank.ending()},
        signals={rank.rank_id: rank.signal for rank in state.ranks if rank.phase in failed and rank.signal is not None},
    )


def _report(files: "Sequence[_File]", endings: Endings, notes: "list[str]") -> Report:
    rules = load_rules()
    scanner = Scanner(rules)
    total = sum(file.size_bytes for file in files)
    end_bytes = min(_MOST_END, max(_LEAST_END, _ENDS_BYTES // (2 * max(1, len(files)))))
    logs = []
    for file in files:
        damages: "list[str]" = []
        scan = scanner.scan(_blocks(file, None if total <= _ALL_BYTES else end_bytes, damages))
        notes += damages
        if scan.size_bytes:
            logs.append(Log(file.name, file.place, scan))
    explanation = explain(logs, rules, endings)
    by_name = {file.name: file for file in files}
    lines = {one: _line_number(by_name[one.log], one.offset) for one in explanation.evidence}
    return Report(explanation, lines, len(logs), sum(log.scan.size_bytes for log in logs), tuple(notes))


# ── files ──────────────────────────────────────────────────────────────────────────────────────────────────


def _named_file(path: Path, name: str) -> _File:
    try:
        size = path.stat().st_size
    except OSError as exc:
        raise RunNotFoundError(f"{name}: neither a run nor a file or folder of logs ({exc.strerror})") from exc
    return _File(path, name, place_of_path(name), size)


def _files_below(root: Path, prefix: str, notes: "list[str]") -> "list[_File]":
    """Return what may be a log below *root*, by name; links are not followed."""
    found: "list[_File]" = []
    for folder, folders, names in os.walk(root, onerror=lambda exc: notes.append(_told(exc))):
        relative = os.path.relpath(folder, root)
        depth = 0 if relative == "." else relative.count(os.sep) + 1
        folders[:] = sorted(one for one in folders if not one.startswith(".")) if depth < _MOST_DEPTH else []
        for name in sorted(names):
            if name.startswith(".") or Path(name).suffix.lower() in _NO_LOGS:
                continue
            path = Path(folder, name)
            inside = os.path.join("" if relative == "." else relative, name)
            try:
                told = path.lstat()
            except OSError as exc:
                notes.append(_told(exc))
                continue
            if stat.S_ISREG(told.st_mode) and told.st_size:
                shown = os.path.join(prefix, inside)
                found.append(_File(path, shown, place_of_path(os.path.join(root.name, inside)), told.st_size))
        if len(found) > _MOST_FILES:
            notes.append(f"{root}: more than {_MOST_FILES:,} files; the rest was left out")
            break
    return found


def _told(exc: OSError) -> str:
    return f"{exc.filename}: {exc.strerror or exc}"


def _open(path: Path) -> BufferedIOBase:
    """Open a log, unpacked. Raises OSError."""
    file = open_regular(path)
    head = file.read(8)
    file.seek(0)
    for magic, opener in _PACKED.items():
        if head.startswith(magic):
            return cast(BufferedIOBase, opener(file, "rb"))
    return cast(BufferedIOBase, file)


def _blocks(file: _File, end_bytes: Optional[int], notes: "list[str]") -> "Iterator[Block]":
    """Yield the bytes of a log; nothing of a file that holds no text. *end_bytes* None: look at each line of it.

    What a damaged or shrinking file still gives is taken; *notes* tells of the rest.
    """
    try:
        with _open(file.path) as opened:
            packed = not hasattr(opened, "raw")  # its size is known when it is read
            offset = 0
            while data := opened.read1(_BLOCK):  # of a packed file that breaks off `read` would give nothing
                if offset == 0 and b"\0" in data[:_HEAD]:
                    return
                thorough = (
                    end_bytes is None
                    or offset < end_bytes
                    or (not packed and offset + len(data) > file.size_bytes - end_bytes)
                )
                yield Block(data, thorough)
                offset += len(data)
    except _DAMAGED as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        notes.append(f"{file.name}: not read to its end: {reason}")


def _line_number(file: _File, offset: int) -> int:
    """Return the number of the line at *offset*, from 1."""
    count, left = 1, offset
    try:
        with _open(file.path) as opened:
            while left > 0 and (data := opened.read(min(_BLOCK, left))):
                count += data.count(b"\n")
                left -= len(data)
    except _DAMAGED:
        pass  # it changed since: the number is that of what there is
    return count
