"""Read the logs of a run's ranks, told apart, folded, or as they grow."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from orchestrator.errors import RunDirError, RunNotFoundError
from orchestrator.monitor import Follower, ensure_supervised
from orchestrator.store import Run
from orchestrator.supervisor.hostplan import SCHEDULER
from orchestrator.supervisor.linux import Watcher
from orchestrator.supervisor.progress import LineTail, last_lines, open_regular

_FOLD_WINDOW = 2000  # lines of one rank within which the same line of another is found
_MOST_LINE = 1 << 20  # characters of a line that are shown
_TAIL_BYTES = 1 << 26
_FOLLOW_S = 1.0


@dataclass(frozen=True)
class Source:
    """The log of one rank, or of the scheduler."""

    label: str  # `rank 3`, `scheduler`
    rank: Optional[int]
    path: Path


def sources(run: Run, ranks: Optional[Sequence[int]] = None, *, scheduler: bool = False) -> "list[Source]":
    """Return the logs of *ranks* (None: all), then the scheduler's if asked for.

    Raises RunNotFoundError for a rank that the run does not have.
    """
    known = {rank.rank_id: rank for rank in run.plan.ranks}
    found = []
    for rank_id in known if ranks is None else ranks:
        if rank_id not in known:
            raise RunNotFoundError(
                f"run {run.plan.name} has no rank {rank_id}; it has {len(known)} (0-{len(known) - 1})"
            )
        process = known[rank_id].process
        found.append(Source(f"rank {rank_id}", rank_id, run.run_dir.log(process.folder, process.log)))
    if scheduler:
        process_plan = run.plan.scheduler
        if process_plan is None:
            raise RunNotFoundError(f"run {run.plan.name} has no scheduler process")
        found.append(Source(SCHEDULER, None, run.run_dir.log(process_plan.folder, process_plan.log)))
    return found


def read(chosen: Sequence[Source], tail: Optional[int] = None) -> "Iterator[tuple[Source, str]]":
    """Yield the lines of each log, one log after the other; *tail*: the last so many of each."""
    for source in chosen:
        for line in _lines(source.path, tail):
            yield source, line


def fold(chosen: Sequence[Source], tail: Optional[int] = None) -> "Iterator[tuple[list[Source], str]]":
    """Yield each line once with all the logs that have it, in the order of the first that does.

    Equal lines are found within a window of some thousand lines, so memory stays bounded.
    """
    streams = [(source, _lines(source.path, tail)) for source in chosen]
    waiting: "OrderedDict[tuple[str, int], list[Source]]" = OrderedDict()
    waits: "Counter[str]" = Counter()  # how many occurrences of a line wait
    seen: "dict[int, dict[str, int]]" = {index: {} for index in range(len(streams))}
    alive = set(range(len(streams)))
    while alive:
        for index in sorted(alive):
            source, lines = streams[index]
            line = next(lines, None)
            if line is None:
                alive.discard(index)
                continue
            occurrence = seen[index].get(line, 0)  # a line that a rank prints twice is two lines
            seen[index][line] = occurrence + 1
            if (line, occurrence) not in waiting:
                waits[line] += 1
            waiting.setdefault((line, occurrence), []).append(source)
        while len(waiting) > _FOLD_WINDOW * len(streams):
            (line, _), having = waiting.popitem(last=False)
            yield having, line
            waits[line] -= 1
            if not waits[line]:  # nothing is left to count from: forget it, so that memory stays bounded
                del waits[line]
                for counts in seen.values():
                    counts.pop(line, None)
    for (line, _), having in waiting.items():
        yield having, line


def follow(
    run: Run,
    chosen: Sequence[Source],
    tail: Optional[int] = None,
    *,
    flowing: "Callable[[], bool]" = lambda: False,
) -> "Iterator[list[tuple[Source, str]]]":
    """Yield what all logs hold and gain, whole lines only, until the run is finished and nothing flows here any more.

    *tail*: begin with the last so many lines of each log instead of its first.
    """
    tails: Mapping[str, LineTail] = {source.label: LineTail(source.path) for source in chosen}
    if tail is not None:
        past = [(source, _text(line)) for source in chosen for line in tails[source.label].skip_to_last(tail)]
        if past:
            yield past
    follower = Follower(run)
    watcher = Watcher()
    try:
        watcher.add(run.run_dir.root)
        for source in chosen:
            watcher.add(source.path.parent)
        finished = False
        while True:
            batch = [(source, _text(line)) for source in chosen for line in tails[source.label].lines()]
            if batch:
                yield batch
                continue  # there may be more at once
            if finished:
                break
            state = follower.state()
            finished = state.finished and not flowing()
            if not finished:
                ensure_supervised(run, state)  # else a run whose supervisor was killed never ends
                watcher.wait(_FOLLOW_S)
        rest = [(source, _text(rest)) for source in chosen if (rest := tails[source.label].rest())]
        if rest:
            yield rest
    finally:
        watcher.close()


def fold_batch(batch: "Iterable[tuple[Source, str]]") -> "list[tuple[list[Source], str]]":
    """Fold the lines that came together."""
    folded: "dict[tuple[str, int], list[Source]]" = {}
    counts: "dict[tuple[str, str], int]" = {}
    for source, line in batch:
        occurrence = counts.get((source.label, line), 0)
        counts[(source.label, line)] = occurrence + 1
        folded.setdefault((line, occurrence), []).append(source)
    return [(having, line) for (line, _), having in folded.items()]


def _lines(path: Path, tail: Optional[int]) -> "Iterator[str]":
    if tail is not None:
        yield from map(_seen, last_lines(path, tail, _TAIL_BYTES))
        return
    try:
        with open_regular(path) as file:
            while block := file.readline(_MOST_LINE):
                yield _text(block.rstrip(b"\n"))
    except FileNotFoundError:
        return  # the process has not started
    except OSError as exc:
        raise RunDirError(f"{path}: {exc.strerror}") from exc


def _text(line: bytes) -> str:
    return _seen(line[:_MOST_LINE].decode("utf-8", "replace"))


def _seen(line: str) -> str:
    return line.rstrip("\r").rpartition("\r")[2]  # a progress bar redraws its line: what is seen last is what counts
