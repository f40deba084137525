"""Explain why a job failed: bring its logs, of any launcher, before the rules, and say what they come to."""

from __future__ import annotations

import functools
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator import packed
from orchestrator.diagnosis.judging import Endings, Evidence, Explanation, Log, explain
from orchestrator.diagnosis.places import Place, place_of_path
from orchestrator.diagnosis.rules import Rules
from orchestrator.diagnosis.scanning import Block, Scanner
from orchestrator.errors import RunNotFoundError
from orchestrator.runstate import RankPhase, RunState
from orchestrator.store import Run
from orchestrator.verdict import verdict

_BLOCK = 1 << 20
_HEAD = 1 << 13
_MOST_FILES = 100_000
_MOST_DEPTH = 24
_ALL_BYTES = 64 << 20  # of logs that together are no larger every line is looked at
_ENDS_BYTES = 32 << 20  # of larger ones so much is looked at line by line: where they begin and end
_LEAST_END, _MOST_END = 64 << 10, 4 << 20
_NO_LOGS = frozenset(
    """.py .pyc .json .jsonl .yaml .yml .toml .cfg .ini .conf .md .rst .html .css .js .csv .tsv .ckpt .pt .pth
    .safetensors .npy .npz .bin .mindrecord .db .tfrecord .mindir .onnx .air .om .pb .ir .dat .so .o .a .whl .png .jpg
    .jpeg .gif .pdf .svg .7z .sh .cc .cpp .c .h .hpp .ipynb .lock .pid""".split()  # noqa: SIM905
)
_NOT_OF_RANKS = frozenset({"code", "processes", "requests", "evals"})  # folders of a run that hold no logs


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


@dataclass(frozen=True)
class _Log:
    """A log of a file, which an archive has many of."""

    name: str
    place: Place
    piece: packed.Piece


@functools.cache
def load_rules() -> Rules:
    """Return the rules that come with ascendrun."""
    from importlib import resources

    file = resources.files("orchestrator.diagnosis").joinpath("rules.yaml")
    return Rules.parse(file.read_text(encoding="utf-8"), file.name, ours=True)


@functools.cache
def _scanner() -> Scanner:
    return Scanner(load_rules())


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
    rules, scanner = load_rules(), _scanner()
    total = sum(file.size_bytes for file in files)
    end_bytes = min(_MOST_END, max(_LEAST_END, _ENDS_BYTES // (2 * max(1, len(files)))))
    logs = []
    whole_bytes = _ALL_BYTES if total <= _ALL_BYTES else 0  # what is packed may turn out to be more
    for file in files:
        for log in _logs_in(file, notes):
            scan = scanner.scan(_blocks(log, max(whole_bytes, end_bytes), end_bytes, notes))
            whole_bytes = max(0, whole_bytes - scan.size_bytes)
            if scan.size_bytes:
                logs.append(Log(log.name, log.place, scan))
    explanation = explain(logs, rules, endings)
    size = sum(log.scan.size_bytes for log in logs)
    return Report(explanation, _line_numbers(files, explanation.evidence), len(logs), size, tuple(dict.fromkeys(notes)))


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
            path = Path(folder, name)
            # An archive among other files may be a data set, which takes long to unpack: its name must speak of logs.
            if not _may_be_log(name) or (packed.is_archive(path) and "log" not in name.lower()):
                continue
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


def _may_be_log(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() not in _NO_LOGS


def _logs_in(file: _File, notes: "list[str]") -> "Iterator[_Log]":
    """Yield the logs of a file, each to be read before the next; *notes* tells what is damaged or left out."""
    try:
        for piece in packed.pieces(file.path):
            if not piece.name:
                yield _Log(file.name, file.place, piece)
            elif _may_be_log(piece.name.rpartition("/")[2]):
                name = f"{file.name}/{piece.name}"
                yield _Log(name, place_of_path(name), piece)
    except packed.DAMAGED as exc:
        notes.append(_not_read(file.name, exc))


def _not_read(name: str, exc: Exception) -> str:
    return f"{name}: not read to its end: {exc.strerror if isinstance(exc, OSError) and exc.strerror else exc}"


def _blocks(log: _Log, begin_bytes: int, end_bytes: int, notes: "list[str]") -> "Iterator[Block]":
    """Yield the bytes of a log, of which so many at its begin and end are looked at line by line; nothing of no text.

    What a damaged or shrinking file still gives is taken; *notes* tells of the rest.
    """
    size = log.piece.size_bytes
    try:
        offset = 0
        while data := log.piece.read(_BLOCK):
            if offset == 0 and b"\0" in data[:_HEAD]:
                return
            yield Block(data, offset < begin_bytes or (size is not None and offset + len(data) > size - end_bytes))
            offset += len(data)
    except packed.DAMAGED as exc:
        notes.append(_not_read(log.name, exc))


def _line_numbers(files: "Sequence[_File]", evidence: "Sequence[Evidence]") -> "dict[Evidence, int]":
    """Return the number of the line of each evidence, from 1; of a log that changed since, that of what there is."""
    wanted: "dict[str, list[Evidence]]" = defaultdict(list)
    for one in evidence:
        wanted[one.log].append(one)
    lines = dict.fromkeys(evidence, 1)
    for file in files:
        if not any(name == file.name or name.startswith(f"{file.name}/") for name in wanted):
            continue
        for log in _logs_in(file, []):
            for one, number in _count_lines(log, wanted.pop(log.name, [])):
                lines[one] = number
    return lines


def _count_lines(log: _Log, wanted: "list[Evidence]") -> "Iterator[tuple[Evidence, int]]":
    number, offset = 1, 0
    for one in sorted(wanted, key=lambda one: one.offset):
        try:
            while offset < one.offset and (data := log.piece.read(min(_BLOCK, one.offset - offset))):
                number += data.count(b"\n")
                offset += len(data)
        except packed.DAMAGED:
            pass
        yield one, number
