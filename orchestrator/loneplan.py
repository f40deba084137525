"""What a process of a job gets that is alone: an evaluation, an export, a prediction. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional

from orchestrator.inventory import Host
from orchestrator.jobspec import JobSpec, ModuleSpec, Scalar
from orchestrator.plan import MEETING_VARIABLES, Rank, RunPlan, argv_of, cann_logs, spell
from orchestrator.supervisor.hostplan import ProcessPlan
from orchestrator.supervisor.masking import MASK
from orchestrator.supervisor.rundir import RunDir
from orchestrator.tuning import tuned


def plan_evaluation(
    plan: RunPlan,
    host: Host,
    *,
    checkpoints: str,
    dataset: Optional[str],
    run_id: str,
    created_at: float,
    run_dir: RunDir,
    environment: Mapping[str, str],
    compile_cache: Optional[str] = None,
) -> RunPlan:
    """Plan the evaluation of *checkpoints* (a file or folder) of the job of *plan*: one process, all CPUs."""
    spec, evaluation = plan.spec, plan.spec.evaluation
    assert evaluation is not None, "the caller has checked it"
    device = plan.ranks[0].device_id
    config = {**spec.config, **evaluation.config, "checkpoint_path": checkpoints}
    variables = {
        **cann_logs(host, environment, run_dir, "eval"),
        **lone_variables(spec, host, environment, device_id=device, compile_cache=compile_cache),
        "ASCENDRUN_RUN_NAME": plan.name,
        "ASCENDRUN_WORK_FOLDER": str(run_dir.work_folder("eval")),
        "ASCENDRUN_PROGRESS": str(run_dir.progress("eval")),
    }
    argv = argv_of(spec, evaluation.module, plan.python, host.backend, config, dataset)
    process = ProcessPlan(0, argv, variables, "eval", "eval.log", unset=MEETING_VARIABLES)
    return RunPlan(
        run_id,
        f"{plan.name}-eval",
        created_at,
        spec,
        host.backend,
        (Rank(0, host.name, device, process),),
        None,
        None,
        dataset,
        plan.python,
        plan.launched_from,
        (),
    )


def lone_variables(
    spec: JobSpec,
    host: Host,
    environment: Mapping[str, str],
    *,
    device_id: int,
    compile_cache: Optional[str] = None,
) -> "dict[str, str]":
    """Return the variables of a process of the job that is alone and has all CPUs; MEETING_VARIABLES are to be unset.

    *environment* is the one that it inherits.
    """
    return {
        **tuned(host, environment, threads=len(host.cpus), compile_cache=compile_cache),
        "RANK_ID": "0",
        "RANK_SIZE": "1",
        "DEVICE_ID": str(device_id),
        "ASCENDRUN_BACKEND": host.backend,
        **{name: value for name, value in spec.environment.items() if value != MASK},  # a collected plan has masks
    }


def lone_argv(
    module: ModuleSpec, python: str, settings: Mapping[str, Scalar], words: Sequence[str] = ()
) -> "tuple[str, ...]":
    """Return what runs *module* with its own config, *settings* on top (None: left out), and *words* as they are."""
    said = {**module.config, **settings}
    keys = (f"--{key}={spell(value)}" for key, value in said.items() if value is not None)
    return (python, "-m", module.module, *keys, *words)
