"""Export checkpoints, and predict with models: each by a module of the job, in a child process of ours."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from orchestrator import jobfiles
from orchestrator.errors import RunNotFoundError, SpecError
from orchestrator.evaluate import CHECKPOINT_SUFFIXES
from orchestrator.jobspec import JobSpec, ModuleSpec, Scalar
from orchestrator.loneplan import lone_argv, lone_variables
from orchestrator.mirror import bring, is_far
from orchestrator.monitor import Follower
from orchestrator.plan import MEETING_VARIABLES
from orchestrator.store import Run, Store, run_around
from orchestrator.supervisor.progress import open_regular
from orchestrator.transport import local

if TYPE_CHECKING:
    import subprocess

DEFAULT_JOB = "sknet50"  # of a file that lies in no run
BEST = "best.json"  # beside the checkpoints, written by evaluations: {"checkpoint": file name, ...}
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Chosen:
    """A checkpoint or an exported model, the job that it is of, and what the person should know of the choice."""

    path: Path
    why: str
    spec: JobSpec
    backend: str = "auto"
    python: str = sys.executable
    dataset: Optional[str] = None  # None where it is not to be had
    device_id: int = 0


def choose(what: Optional[str], job: Optional[str], store: Store) -> Chosen:
    """Return the model that *what* means: a file, or of a run (None: the newest) its best or newest checkpoint.

    A file in a run or a collected folder of this user's belongs to that run's job, any other to DEFAULT_JOB; *job*
    overrules both. Raises UserError, or HostError where far hosts have all that there is and cannot be asked.
    """
    path = Path(os.path.abspath(os.path.expanduser(what))) if what is not None and not store.knows(what) else None
    if path is not None and path.is_file():
        around = run_around(path)
        if around is not None:
            return _of_run(around, path, f"of run {around.plan.name}", job)
        return Chosen(path, f"taken for one of job {job or DEFAULT_JOB}", jobfiles.load(job or DEFAULT_JOB))
    run = store.find(what)
    missing = bring(run)
    try:
        path, why = _checkpoint_of(run)
    except RunNotFoundError:
        if missing:
            raise missing[0] from None
        raise
    return _of_run(run, path, why, job)


def _of_run(run: Run, path: Path, why: str, job: Optional[str]) -> Chosen:
    plan = run.plan
    return Chosen(
        path,
        why,
        plan.spec if job is None else jobfiles.load(job),
        "auto" if is_far(run) else plan.backend,
        # a collected run comes from elsewhere
        plan.python if os.access(plan.python, os.X_OK) and not is_far(run) else sys.executable,
        plan.dataset if plan.dataset is not None and os.path.isdir(plan.dataset) else None,
        plan.ranks[0].device_id,
    )


def _checkpoint_of(run: Run) -> "tuple[Path, str]":
    """Return the checkpoint of *run* to use, and why this one."""
    found = [path for suffix in CHECKPOINT_SUFFIXES for path in run.run_dir.root.rglob(f"*{suffix}")]
    if not found and not is_far(run):  # the job saves them elsewhere, and told us where
        found = [Path(str(checkpoint.get("path"))) for checkpoint in Follower(run).state().checkpoints]
    dated = []
    for path in found:
        try:
            status = path.stat()
        except (OSError, ValueError):
            continue  # replaced by a newer one just now, or told under a name that is none
        if not path.name.startswith(".") and stat.S_ISREG(status.st_mode):
            dated.append((status.st_mtime_ns, path))
    if not dated:
        raise RunNotFoundError(
            f"run {run.plan.name} has no checkpoint; `ascendrun status {run.plan.name}` tells how far it is"
        )
    for folder in sorted({path.parent for _, path in dated}):
        best = _marked_best(folder)
        if best is not None:
            return best, f"marked as the best of run {run.plan.name}"
    return max(dated)[1], f"the newest of run {run.plan.name}; no evaluation has marked a best one"


def _marked_best(folder: Path) -> Optional[Path]:
    """Return the checkpoint that `best.json` in *folder* names, if it is there and whole."""
    try:
        with open_regular(folder / BEST) as file:
            named = json.loads(file.read(_MOST_BYTES))["checkpoint"]
        path = folder / Path(str(named)).name  # a collected folder lies elsewhere than the run did
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return path if path.is_file() else None


def start_export(
    chosen: Chosen, file_format: str, target: Optional[str], environment: Mapping[str, str], *, force: bool
) -> "subprocess.Popen[bytes]":
    """Start the export of a checkpoint to *target* (None: beside it). Raises UserError or HostError."""
    settings: "dict[str, Scalar]" = {
        "checkpoint_path": str(chosen.path),
        "file_format": file_format.upper(),
        "file_name": os.path.abspath(os.path.expanduser(target)) if target is not None else None,
        "dataset_path": chosen.dataset,
    }
    module = _module(chosen.spec.export, "export", chosen)
    return _start(chosen, lone_argv(module, chosen.python, settings, ["--force"] if force else []), environment)


def start_prediction(
    chosen: Chosen, pictures: Sequence[str], top: int, environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start predicting; the child prints a JSON object a line. Raises UserError or HostError."""
    settings: "dict[str, Scalar]" = {"model": str(chosen.path), "top": top, "dataset_path": chosen.dataset}
    module = _module(chosen.spec.predict, "predict", chosen)
    return _start(chosen, lone_argv(module, chosen.python, settings, ["--json", "--", *pictures]), environment)


def _module(module: Optional[ModuleSpec], verb: str, chosen: Chosen) -> ModuleSpec:
    import importlib.util

    if module is None:
        raise SpecError(f"the job {chosen.spec.name} names no `{verb}:` module; --job NAME takes another job's")
    if chosen.python == sys.executable and importlib.util.find_spec(module.module.partition(".")[0]) is None:
        raise SpecError(f"module {module.module}: not installed for {sys.executable}")
    return module


def _start(chosen: Chosen, argv: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    host = local.this_host(chosen.backend)
    variables = {name: value for name, value in environment.items() if name not in MEETING_VARIABLES}
    variables.update(lone_variables(chosen.spec, host, environment, device_id=chosen.device_id))
    # As in a run, where ranks have folders of their own, no file of the folder we stand in becomes a module.
    variables["PYTHONSAFEPATH"] = "1"
    return local.start_child(argv, variables)
