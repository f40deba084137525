from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.inventory import Device, Host
from orchestrator.jobspec import JobSpec
from orchestrator.loneplan import plan_evaluation
from orchestrator.plan import CANN_LOGS, RunPlan, compile_cache_key
from orchestrator.supervisor.hostplan import HostPlan, ProcessPlan
from orchestrator.supervisor.progress import MINDSPORE_PATTERNS
from orchestrator.supervisor.rundir import RunDir, write_atomically

MODULE = JobSpec(
    name="sknet",
    module="sknet.train",
    framework="mindspore",
    config={"device_target": "auto", "epoch_size": 90, "amp": True, "resume": None, "save_checkpoint_path": "./ckpt"},
    environment={"GLOG_v": "3"},
)
MakePlan = Callable[..., RunPlan]
MakeHost = Callable[..., Host]


def scheduler_of(plan: RunPlan) -> ProcessPlan:
    assert plan.scheduler is not None
    return plan.scheduler


# ── who a rank is ────────────────────────────────────────────────────────────────────────────────


def test_every_rank_gets_the_variables_of_rank_table_dynamic_cluster_and_torchrun(make_run_plan: MakePlan) -> None:
    plan = make_run_plan(ranks=2, devices=(Device(4), Device(7)), dataset="/data")
    assert plan.ranks[1].process.environment == {
        "RANK_ID": "1",
        "RANK_SIZE": "2",
        "DEVICE_ID": "7",
        "DEVICE_NUM": "2",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "MS_WORKER_NUM": "2",
        "MS_SCHED_HOST": "127.0.0.1",
        "MS_SCHED_PORT": "29501",
        "MS_ROLE": "MS_WORKER",
        "MS_NODE_ID": "1",
        "ASCENDRUN_ATTEMPT": "1",
        "ASCENDRUN_RUN_NAME": "run-1",
        "ASCENDRUN_BACKEND": "cpu",
        "ASCENDRUN_WORK_FOLDER": "/runs/run-1/train_parallel1",
        "ASCENDRUN_PROGRESS": "/runs/run-1/train_parallel1/progress.jsonl",
        "ASCENDRUN_DATASET": "/data",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "4",
    }


@given(ranks=st.integers(1, 8))
def test_ranks_are_numbered_from_0_and_differ_in_who_they_are_only(make_run_plan: MakePlan, ranks: int) -> None:
    plan = make_run_plan(ranks=ranks)
    personal = {
        "RANK_ID",
        "RANK",
        "LOCAL_RANK",
        "MS_NODE_ID",
        "DEVICE_ID",
        "ASCENDRUN_WORK_FOLDER",
        "ASCENDRUN_PROGRESS",
    }
    assert [rank.rank_id for rank in plan.ranks] == list(range(ranks))
    assert [rank.process.rank for rank in plan.ranks] == list(range(ranks))
    shared = [{k: v for k, v in r.process.environment.items() if k not in personal} for r in plan.ranks]
    assert all(variables == shared[0] for variables in shared)
    for name in personal:
        assert len({rank.process.environment[name] for rank in plan.ranks}) == ranks


def test_without_a_dataset_no_rank_is_told_of_one(make_run_plan: MakePlan) -> None:
    plan = make_run_plan(MODULE, ranks=1)
    assert "ASCENDRUN_DATASET" not in plan.ranks[0].process.environment
    assert not any(word.startswith("--dataset_path") for word in plan.ranks[0].process.argv)


def test_the_job_may_set_variables_of_its_own(make_run_plan: MakePlan) -> None:
    plan = make_run_plan(replace(MODULE, environment={"GLOG_v": "3", "OMP_NUM_THREADS": "9"}))
    for rank in plan.ranks:
        assert rank.process.environment["GLOG_v"] == "3"
        assert rank.process.environment["OMP_NUM_THREADS"] == "9"


def test_a_user_who_stands_in_another_cluster_does_not_lend_ranks_its_identity(make_run_plan: MakePlan) -> None:
    plan = make_run_plan(ranks=2, environment={"RANK_ID": "77", "WORLD_SIZE": "99", "MASTER_PORT": "1"})
    assert plan.ranks[0].process.environment["RANK_ID"] == "0"
    assert plan.ranks[0].process.environment["WORLD_SIZE"] == "2"
    assert plan.ranks[0].process.environment["MASTER_PORT"] == "29500"


# ── folders ──────────────────────────────────────────────────────────────────────────────────────


def test_one_rank_works_in_train(make_run_plan: MakePlan) -> None:
    plan = make_run_plan(ranks=1)
    assert [(rank.process.folder, rank.process.log) for rank in plan.ranks] == [("train", "train.log")]


def test_more_ranks_work_in_train_parallel_and_their_number(make_run_plan: MakePlan) -> None:
    folders = [rank.process.folder for rank in make_run_plan(ranks=3, devices=[Device(n) for n in (2, 5, 7)]).ranks]
    assert folders == ["train_parallel0", "train_parallel1", "train_parallel2"]


def test_the_scheduler_works_in_a_folder_of_its_own(make_run_plan: MakePlan) -> None:
    plan = make_run_plan(MODULE, ranks=2)
    assert (scheduler_of(plan).folder, scheduler_of(plan).log) == ("scheduler", "scheduler.log")
    folders = [process.folder for process in plan.host_plan().processes]
    assert len(set(folders)) == len(folders) == 3


def test_a_working_directory_is_handed_to_every_rank(make_run_plan: MakePlan) -> None:
    plan = make_run_plan(JobSpec.for_command(["ls"], "/home/me"), ranks=2)
    assert {rank.process.working_directory for rank in plan.ranks} == {"/home/me"}


# ── CPUs and tuning ──────────────────────────────────────────────────────────────────────────────


@given(ranks=st.integers(1, 16), cpus=st.sets(st.integers(0, 200), min_size=1, max_size=40).map(sorted))
def test_cpu_shares_are_equal_disjoint_and_leave_less_than_one_cpu_a_rank(
    make_run_plan: MakePlan, make_host: MakeHost, ranks: int, cpus: "list[int]"
) -> None:
    host = replace(make_host(devices=16), cpus=tuple(cpus))
    plan = make_run_plan(host=host, ranks=ranks)
    shares = [rank.process.cpus for rank in plan.ranks]
    threads = {rank.process.environment["OMP_NUM_THREADS"] for rank in plan.ranks}
    if len(cpus) // ranks < 2:  # confined to one CPU, MindSpore's cluster client does not get through
        assert shares == [None] * ranks
        assert threads == {"1"}
        return
    pinned = [cpu for share in shares for cpu in share or ()]
    assert len(pinned) == len(set(pinned))
    assert set(pinned) <= set(cpus)
    assert {len(share or ()) for share in shares} == {len(cpus) // ranks}
    assert len(cpus) - len(pinned) < ranks
    assert threads == {str(len(cpus) // ranks)}


def test_eight_cpus_are_wholly_shared_out_to_four_two_or_one_rank(make_run_plan: MakePlan) -> None:
    for ranks in (1, 2, 4):
        shares = [rank.process.cpus or () for rank in make_run_plan(ranks=ranks).ranks]
        assert sorted(cpu for share in shares for cpu in share) == list(range(8))


@pytest.mark.parametrize(
    ("backend", "flags", "wanted"),
    [
        ("cpu", {"avx512f", "avx2"}, "AVX2"),
        ("cpu", {"avx2"}, None),
        ("cpu", set(), None),
        ("ascend", {"avx512f"}, None),
    ],
)
def test_the_fast_convolution_is_chosen_on_the_cpu_backend_with_avx512_only(
    make_run_plan: MakePlan, make_host: MakeHost, backend: str, flags: "set[str]", wanted: "str | None"
) -> None:
    plan = make_run_plan(host=make_host(backend=backend, flags=flags))
    assert {rank.process.environment.get("ONEDNN_MAX_CPU_ISA") for rank in plan.ranks} == {wanted}


@pytest.mark.parametrize(
    "name", ["OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "MS_COMPILER_CACHE_PATH", "PYTHONUNBUFFERED"]
)
def test_tuning_that_the_user_has_done_is_left_alone(make_run_plan: MakePlan, make_host: MakeHost, name: str) -> None:
    host = make_host(flags={"avx512f"})
    tuned = make_run_plan(host=host, compile_cache="/cache").ranks[0].process.environment
    left = make_run_plan(host=host, compile_cache="/cache", environment={name: "mine"}).ranks[0].process.environment
    assert name in tuned
    assert name not in left  # the rank inherits it from the user


def test_compiled_graphs_are_shared_where_there_is_a_folder_for_them(make_run_plan: MakePlan) -> None:
    with_cache = make_run_plan(MODULE, compile_cache="/cache/x").ranks[0].process.environment
    without = make_run_plan(MODULE).ranks[0].process.environment
    assert (with_cache["MS_COMPILER_CACHE_ENABLE"], with_cache["MS_COMPILER_CACHE_PATH"]) == ("1", "/cache/x")
    assert "MS_COMPILER_CACHE_ENABLE" not in without


def test_canns_own_logs_come_into_the_folder_of_each_rank_unless_the_user_says_where(
    make_run_plan: MakePlan, make_host: MakeHost
) -> None:
    ascend = make_host(backend="ascend")
    for rank in make_run_plan(host=ascend, ranks=2).ranks:
        variables = rank.process.environment
        assert variables[CANN_LOGS] == f"{variables['ASCENDRUN_WORK_FOLDER']}/ascend"
    inherited = make_run_plan(host=ascend, environment={CANN_LOGS: "/logs"}).ranks[0].process.environment
    assert CANN_LOGS not in inherited
    said = replace(MODULE, environment={CANN_LOGS: "/mine"})
    assert make_run_plan(said, host=ascend).ranks[0].process.environment[CANN_LOGS] == "/mine"
    assert CANN_LOGS not in make_run_plan(host=make_host(backend="cpu")).ranks[0].process.environment


# ── the scheduler ────────────────────────────────────────────────────────────────────────────────


def test_a_mindspore_job_of_many_ranks_starts_its_scheduler_with_them(make_run_plan: MakePlan) -> None:
    plan = make_run_plan(MODULE, ranks=2)
    variables = scheduler_of(plan).environment
    assert plan.scheduler_on_demand is None
    assert variables["MS_ROLE"] == "MS_SCHED"
    assert {variables[name] for name in ("MS_WORKER_NUM", "RANK_SIZE")} == {"2"}
    for name in ("MS_SCHED_HOST", "MS_SCHED_PORT"):
        assert {rank.process.environment[name] for rank in plan.ranks} == {variables[name]}


def test_a_mindspore_job_of_one_rank_has_no_scheduler(make_run_plan: MakePlan) -> None:
    plan = make_run_plan(MODULE, ranks=1)
    assert (plan.scheduler, plan.scheduler_on_demand) == (None, None)


@pytest.mark.parametrize("ranks", [1, 4])
def test_a_program_of_any_kind_gets_a_scheduler_only_when_it_asks(make_run_plan: MakePlan, ranks: int) -> None:
    plan = make_run_plan(ranks=ranks)
    assert scheduler_of(plan).rank is None
    assert plan.scheduler_on_demand == ("127.0.0.1", 29501)


# ── command lines ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("backend", "target"), [("cpu", "CPU"), ("ascend", "Ascend")])
def test_a_module_gets_its_config_as_arguments_and_the_device_target_of_the_backend(
    make_run_plan: MakePlan, make_host: MakeHost, backend: str, target: str
) -> None:
    plan = make_run_plan(MODULE, host=make_host(backend=backend), ranks=1, dataset="/data/cifar 10")
    assert plan.ranks[0].process.argv == (
        "/usr/bin/python3",
        "-m",
        "sknet.train",
        f"--device_target={target}",
        "--epoch_size=90",
        "--amp=true",
        "--save_checkpoint_path=./ckpt",
        "--dataset_path=/data/cifar 10",
    )


def test_a_device_target_that_the_user_chose_is_kept(make_run_plan: MakePlan) -> None:
    spec = MODULE.with_settings(["device_target=GPU"])
    assert "--device_target=GPU" in make_run_plan(spec, ranks=1).ranks[0].process.argv


def test_the_dataset_of_the_command_line_beats_that_of_the_config(make_run_plan: MakePlan) -> None:
    spec = replace(MODULE, config={"dataset_path": "/old"})
    argv = make_run_plan(spec, ranks=1, dataset="/new").ranks[0].process.argv
    assert [word for word in argv if "dataset_path" in word] == ["--dataset_path=/new"]


@given(argv=st.lists(st.text(), min_size=1))
def test_a_program_is_run_with_exactly_the_words_it_was_given(make_run_plan: MakePlan, argv: "list[str]") -> None:
    plan = make_run_plan(JobSpec.for_command(argv, "/"), ranks=2, dataset="/data")
    assert all(rank.process.argv == tuple(argv) for rank in plan.ranks)


# ── stored plans ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ranks", [1, 2, 8])
@pytest.mark.parametrize("spec", [None, MODULE], ids=["command", "module"])
def test_a_plan_is_the_same_after_a_journey_through_json(
    make_run_plan: MakePlan, spec: "JobSpec | None", ranks: int
) -> None:
    plan = make_run_plan(spec, ranks=ranks, dataset="/data", compile_cache="/cache")
    assert RunPlan.from_json(plan.to_json()) == plan
    assert HostPlan.from_json(plan.host_plan().to_json()) == plan.host_plan()


def test_a_plan_of_a_newer_ascendrun_is_read_without_its_new_fields(make_run_plan: MakePlan) -> None:
    plan = make_run_plan(MODULE)
    stored = json.loads(plan.to_json())
    stored["epoch"] = stored["ranks"][0]["numa"] = stored["ranks"][0]["process"]["nice"] = 5
    assert RunPlan.from_json(json.dumps(stored)) == plan


@pytest.mark.parametrize("text", ["", "null", "[]", "5", "{}", '"plan"', '{"run_id": "x"}'])
def test_what_is_no_plan_is_refused_with_an_error_that_is_announced(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        RunPlan.from_json(text)


def test_a_file_name_that_is_no_utf8_reaches_the_ranks_unharmed(make_run_plan: MakePlan, tmp_path: Path) -> None:
    argument = b"data-\xff.bin".decode("utf-8", "surrogateescape")  # what Python makes of such an argument
    plan = make_run_plan(JobSpec.for_command(["cat", argument], "/"))
    write_atomically(tmp_path / "host_plan.json", plan.host_plan().to_json())
    read = HostPlan.from_json((tmp_path / "host_plan.json").read_text(encoding="utf-8"))
    assert read.ranks[0].argv == ("cat", argument)


def test_the_host_plan_holds_ranks_scheduler_and_how_to_read_logs(make_run_plan: MakePlan) -> None:
    plan = make_run_plan(MODULE, ranks=2)
    host_plan = plan.host_plan()
    assert [process.name for process in host_plan.processes] == ["rank-0", "rank-1", "scheduler"]
    assert (host_plan.run_id, host_plan.host, host_plan.grace_s) == ("run-1-abcd", "node1", 10.0)
    assert host_plan.log_patterns == MINDSPORE_PATTERNS


@pytest.mark.parametrize("patterns", [(), ("loss=(?P<loss>.*)",)])
def test_log_patterns_of_the_job_replace_those_of_mindspore(
    make_run_plan: MakePlan, patterns: "tuple[str, ...]"
) -> None:
    assert make_run_plan(replace(MODULE, log_patterns=patterns)).host_plan().log_patterns == patterns


# ── compiled graphs ──────────────────────────────────────────────────────────────────────────────


def test_the_key_of_compiled_graphs_changes_with_all_that_shapes_a_graph() -> None:
    def with_config(**changes: object) -> JobSpec:
        return replace(MODULE, config={**MODULE.config, **changes})  # type: ignore[dict-item]

    keys = [
        compile_cache_key(MODULE, 2, "cpu", ["code", "2.4"]),
        compile_cache_key(MODULE, 4, "cpu", ["code", "2.4"]),
        compile_cache_key(MODULE, 2, "ascend", ["code", "2.4"]),
        compile_cache_key(MODULE, 2, "cpu", ["code", "2.5"]),
        compile_cache_key(MODULE, 2, "cpu", ["other", "2.4"]),
        compile_cache_key(replace(MODULE, module="sknet.eval"), 2, "cpu", ["code", "2.4"]),
        compile_cache_key(with_config(batch_size=32), 2, "cpu", ["code", "2.4"]),
        compile_cache_key(with_config(amp=False), 2, "cpu", ["code", "2.4"]),
    ]
    assert len(set(keys)) == len(keys)


def test_the_key_of_compiled_graphs_does_not_change_with_paths_names_and_order() -> None:
    key = compile_cache_key(MODULE, 2, "cpu", ["code"])
    moved = replace(MODULE, config={**MODULE.config, "save_checkpoint_path": "/else", "checkpoint_path": "/x.ckpt"})
    renamed = replace(MODULE, name="other", description="other", grace_s=1.0)
    turned = replace(MODULE, config=dict(reversed(list(MODULE.config.items()))))
    assert {compile_cache_key(spec, 2, "cpu", ["code"]) for spec in (moved, renamed, turned)} == {key}
    assert set(key) <= set("0123456789abcdef")


# ── evaluation ───────────────────────────────────────────────────────────────────────────────────


def test_an_evaluation_is_one_process_on_all_cpus_with_the_checkpoints_and_the_dataset(
    make_run_plan: MakePlan, make_host: MakeHost
) -> None:
    from orchestrator.jobspec import EvaluationSpec

    plan = make_run_plan(replace(MODULE, evaluation=EvaluationSpec("sknet.eval", {"epoch_size": 1})), ranks=2)
    evaluation = plan_evaluation(
        plan,
        make_host(),
        checkpoints="/runs/run-1/ckpt",
        dataset="/data",
        run_id="eval-1",
        created_at=1.0,
        run_dir=RunDir(Path("/runs/run-1/evals/1")),
        environment={},
    )
    (rank,) = evaluation.ranks
    assert evaluation.scheduler is None and evaluation.scheduler_on_demand is None
    assert rank.process.folder == "eval" and rank.process.cpus is None
    assert rank.process.environment["OMP_NUM_THREADS"] == "8"
    assert rank.process.environment["RANK_SIZE"] == "1"
    assert rank.process.argv[:3] == ("/usr/bin/python3", "-m", "sknet.eval")
    for word in ("--device_target=CPU", "--epoch_size=1", "--checkpoint_path=/runs/run-1/ckpt", "--dataset_path=/data"):
        assert word in rank.process.argv
    assert RunPlan.from_json(evaluation.to_json()) == evaluation
