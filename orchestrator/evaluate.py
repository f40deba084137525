"""Evaluate checkpoints: of a run, a file, or a folder of them."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from orchestrator.datasets import check_dataset
from orchestrator.errors import DatasetError, HostError, RunDirError, RunNotFoundError, SpecError
from orchestrator.jobspec import EvaluationSpec
from orchestrator.launch import begin, compile_cache
from orchestrator.loneplan import plan_evaluation
from orchestrator.mirror import bring, is_far
from orchestrator.monitor import Follower
from orchestrator.plan import RunPlan
from orchestrator.store import Run, Store, run_around
from orchestrator.supervisor.rundir import PLAN, RunDir
from orchestrator.transport import local

CHECKPOINT_SUFFIXES = (".ckpt", ".safetensors")


@dataclass(frozen=True)
class Evaluation:
    """An evaluation under way: a run of one process in the `evals/` of the run that the checkpoints come from."""

    run: Run
    evaluated: Run
    checkpoints: Path  # a file, or a folder of them
    passed_over: "tuple[Path, ...]" = ()  # other folders of the run with checkpoints
    missing: "tuple[HostError, ...]" = ()  # why far hosts of the run could not be asked for theirs


def start_evaluation(
    what: Optional[str],
    dataset: Optional[str],
    settings: Sequence[str],
    store: Store,
    environment: Mapping[str, str],
) -> Evaluation:
    """Start the evaluation of a run (None: the newest), a checkpoint or a folder of checkpoints.

    *settings* are `KEY=VALUE` that change the job's config for it. Raises UserError or HostError; nothing is started
    then.
    """
    run, (checkpoints, *passed_over), missing = _resolve(what, store)
    spec = run.plan.spec
    far = is_far(run)
    if spec.evaluation is None:
        raise SpecError(f"the job {spec.name} names no `evaluation:` module, so its checkpoints cannot be evaluated")
    module = spec.evaluation.module
    spec = replace(
        replace(spec, config={**spec.config, **spec.evaluation.config}).with_settings(settings),
        evaluation=EvaluationSpec(module),
    )
    dataset = dataset or run.plan.dataset
    if dataset is None:
        raise SpecError("evaluation needs --dataset DIR")
    folder = Path(os.path.abspath(os.path.expanduser(dataset)))
    if spec.dataset is not None:
        try:
            check_dataset(spec.dataset.layout, folder)
        except DatasetError as exc:
            if not far:
                raise
            raise DatasetError(f"{exc}; it is on the run's hosts: --dataset DIR names one of this machine") from exc
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"
    run_dir = RunDir(run.run_dir.evals / stamp)
    host = local.this_host("auto" if far else run.plan.backend)
    plan: RunPlan = plan_evaluation(
        replace(run.plan, spec=spec, python=sys.executable if far else run.plan.python),
        host,
        checkpoints=str(checkpoints),
        dataset=str(folder),
        run_id=f"{run.plan.run_id}-eval-{stamp}",
        created_at=time.time(),
        run_dir=run_dir,
        environment=environment,
        compile_cache=compile_cache(replace(spec, module=module), 1, host.backend),
    )
    evaluation = Run(plan, run_dir)
    try:
        run_dir.root.mkdir(parents=True)
    except OSError as exc:
        raise RunDirError(f"cannot write {run_dir.root}: {exc.strerror}") from exc
    begin(evaluation, lambda: shutil.rmtree(run_dir.root, ignore_errors=True))
    return Evaluation(evaluation, run, checkpoints, tuple(passed_over), tuple(missing))


def _resolve(what: Optional[str], store: Store) -> "tuple[Run, list[Path], list[HostError]]":
    """Return the run that *what* means, the checkpoint or folder to evaluate, with others of the run behind it.

    What lies on far hosts is brought here first; last come the reasons why some could not be asked.
    """
    path = Path(os.path.abspath(os.path.expanduser(what))) if what is not None and not store.knows(what) else None
    if path is not None and (path.suffix in CHECKPOINT_SUFFIXES or (path.is_dir() and not (path / PLAN).exists())):
        if not path.exists():
            raise RunNotFoundError(f"{what}: no such checkpoint")
        if path.is_dir() and not _has_checkpoints(path):
            raise RunNotFoundError(f"{what}: no checkpoint in this folder (*{', *'.join(CHECKPOINT_SUFFIXES)})")
        around = run_around(path)
        if around is not None:
            return around, [path], []
        raise RunNotFoundError(
            f"{what}: it lies in no run and no collected folder, so its job is not known; "
            "evaluate it where it was trained or collected"
        )
    run = store.find(what)
    missing = bring(run)
    root = run.run_dir.root
    found = (path for suffix in CHECKPOINT_SUFFIXES for path in root.rglob(f"*{suffix}"))
    folders = sorted({path.parent for path in found if not path.name.startswith(".")})  # hidden: not finished
    if not folders:  # the job saves them elsewhere, and told us where
        told = [Path(str(checkpoint.get("path"))) for checkpoint in Follower(run).state().checkpoints]
        if is_far(run) and told:
            raise RunNotFoundError(
                f"run {run.plan.name} saves its checkpoints outside of its folder, on its hosts: copy them here, "
                f"beside others of the run, to evaluate them (the newest is {told[-1]})"
            )
        folders = sorted({path.parent for path in told if path.exists()})
    if not folders and missing:
        raise missing[0]
    if not folders:
        raise RunNotFoundError(
            f"run {run.plan.name} has no checkpoint to evaluate; `ascendrun status {run.plan.name}` tells how far it is"
        )
    return run, folders, missing


def _has_checkpoints(folder: Path) -> bool:
    return any(name.endswith(CHECKPOINT_SUFFIXES) and not name.startswith(".") for name in os.listdir(folder))
