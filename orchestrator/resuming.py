"""`launch --resume`: what a user goes on from by hand."""

from __future__ import annotations

from pathlib import Path

from orchestrator import checkpoints, mirror
from orchestrator.errors import RunNotFoundError, SpecError
from orchestrator.farhosts import FarHosts
from orchestrator.monitor import Follower
from orchestrator.store import Run, Store
from orchestrator.supervisor.whole import problem_of


def checkpoint_of(named: str, store: Store) -> str:
    """Return the absolute path here of the checkpoint *named*, or of the newest whole one of the run *named*.

    That of a run on far hosts is brought here. Raises SpecError where nothing is whole, and says what is wrong with it.
    """
    try:
        run = store.find(named)
    except RunNotFoundError:
        return checkpoints.in_file(Path(named))
    return _newest(run)


def _newest(run: Run) -> str:
    mirror.bring(run)  # what is out of reach now may be here from earlier
    far = FarHosts.of(run.run_dir)
    known = checkpoints.told(Follower(run).state().checkpoints)
    copies = checkpoints.copies_of(run.run_dir, known, (*far.earlier, *far.hosts) if far else ())
    problems = []
    for parts in checkpoints.newest_first(known):
        if len(parts) > 1:
            why = "its ranks wrote a checkpoint each, and `restart:` in a job brings each its own"
            raise SpecError(f"--resume {run.plan.name}: {why}")
        for path in (copies.get(parts[0]), Path(parts[0].path)):
            if path is None:
                continue
            problem = problem_of({**parts[0].proof(), "path": str(path)})
            if problem is None:
                return str(path)
            problems.append(f"{path}: {problem}")
    why = f" ({problems[0]})" if problems else ": it wrote none"
    raise SpecError(f"--resume {run.plan.name}: no checkpoint of it is whole{why}")
