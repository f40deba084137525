"""Who runs where with which environment. Pure: ports, names, time and environment are passed in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Optional

from orchestrator.inventory import Device, Host
from orchestrator.jobspec import JobSpec, Scalar
from orchestrator.supervisor.hostplan import SCHEDULER, HostPlan, ProcessPlan
from orchestrator.supervisor.progress import MINDSPORE_PATTERNS
from orchestrator.supervisor.rundir import RunDir
from orchestrator.tuning import share_cpus, tuned

# MindSpore's scheduler needs no line of the user's script (msrun runs the script once more for it).
_SCHEDULER_PROGRAM = "from mindspore.communication import init; init()"
# What says to MindSpore that it is one of several; left over in somebody's shell, it misleads a process that is alone.
MEETING_VARIABLES = (
    "MS_ROLE",
    "MS_NODE_ID",
    "MS_WORKER_NUM",
    "MS_SCHED_HOST",
    "MS_SCHED_PORT",
    "RANK_TABLE_FILE",
    "MINDSPORE_HCCL_CONFIG_PATH",
)
RESUME = "ASCENDRUN_RESUME"  # the checkpoint that a rank goes on from; unset: it begins anew
CANN_LOGS = "ASCEND_PROCESS_LOG_PATH"  # the folder below which CANN writes the logs of a process
# What a host's environment may set by hand, and the plan leaves as it is.
HEEDED_VARIABLES = ("PYTHONPATH", "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", CANN_LOGS)
NO_USE_S = 2.0  # of grace, where there is nothing to save
_DEVICE_TARGETS = {"cpu": "CPU", "ascend": "Ascend"}  # our backend's name -> MindSpore's


@dataclass(frozen=True)
class Rank:
    """One process of the job on one device."""

    rank_id: int
    host: str
    device_id: int
    process: ProcessPlan


@dataclass(frozen=True)
class RunPlan:
    """All that was decided before a run started. `plan.json` holds it."""

    run_id: str  # unique for ever; marks the processes of the run
    name: str
    created_at: float  # s since 1970
    spec: JobSpec
    backend: str  # ascend | cpu
    ranks: tuple[Rank, ...]
    scheduler: Optional[ProcessPlan]
    scheduler_on_demand: Optional[tuple[str, int]]
    dataset: Optional[str]  # absolute
    python: str
    launched_from: str  # the folder in which the user stood
    command_line: tuple[str, ...]  # what repeats the run
    rank_table: Optional[str] = None  # the text of it, where MindSpore's ranks meet by one
    attempt: int = 1  # restarted, a run is planned anew
    below: str = ""  # where in the run folder this attempt lies; "": in it, for a run that is never restarted

    def host_plan(self, host: Optional[str] = None) -> HostPlan:
        """Return what a host of this run acts on; None: the first, which has the scheduler besides its ranks.

        To a host this attempt is all there is: its folders begin there.
        """
        first = self.ranks[0].host
        host = first if host is None else host
        processes = tuple(rank.process for rank in self.ranks if rank.host == host)
        if host == first and self.scheduler:
            processes += (self.scheduler,)
        patterns = self.spec.log_patterns if self.spec.log_patterns is not None else MINDSPORE_PATTERNS
        on_demand = self.scheduler_on_demand if host == first else None
        here = tuple(replace(one, folder=one.folder.rpartition("/")[2]) for one in processes)
        elsewhere = any(rank.host != host for rank in self.ranks)
        return HostPlan(
            self.run_id,
            host,
            here,
            self.spec.grace_s,
            patterns,
            on_demand,
            self.spec.hang_after,
            elsewhere,
            self.spec.restart.lease_s if self.spec.restart else None,
            self.grace_of_failure_s(),
            self.spec.health_every,
        )

    def grace_of_failure_s(self) -> float:
        """Return what ranks get to end in whose peer has failed: with a restart to come they have nothing to save."""
        return self.spec.grace_s if self.spec.restart is None else min(self.spec.grace_s, NO_USE_S)

    def resuming(self, checkpoints: Mapping[int, str]) -> "RunPlan":
        """Return the same plan with ranks that go on from *checkpoints*: by rank, absolute on the rank's host."""
        ranks = []
        for rank in self.ranks:
            process = rank.process
            if rank.rank_id in checkpoints:
                variables = {**process.environment, RESUME: checkpoints[rank.rank_id]}
                unset = tuple(one for one in process.unset if one != RESUME)
                process = replace(process, environment=variables, unset=unset)
            ranks.append(replace(rank, process=process))
        return replace(self, ranks=tuple(ranks))

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunPlan":
        """Read what `to_json` wrote. Raises ValueError, KeyError or TypeError on anything else."""
        stored: "dict[str, Any]" = json.loads(text)
        on_demand = stored["scheduler_on_demand"]
        return cls(
            stored["run_id"],
            stored["name"],
            stored["created_at"],
            JobSpec.from_stored(stored["spec"]),
            stored["backend"],
            tuple(
                Rank(rank["rank_id"], rank["host"], rank["device_id"], ProcessPlan.from_fields(rank["process"]))
                for rank in stored["ranks"]
            ),
            ProcessPlan.from_fields(stored["scheduler"]) if stored["scheduler"] else None,
            (on_demand[0], on_demand[1]) if on_demand else None,
            stored["dataset"],
            stored["python"],
            stored["launched_from"],
            tuple(stored["command_line"]),
            stored.get("rank_table"),
            stored.get("attempt", 1),
            stored.get("below", ""),
        )


@dataclass(frozen=True)
class Ports:
    """Two free TCP ports on rank 0's host."""

    master: int  # PyTorch's store, opened by rank 0
    scheduler: int  # MindSpore's scheduler


@dataclass(frozen=True)
class Site:
    """What one host gives to a run, and where the run lies on it."""

    host: Host
    devices: tuple[Device, ...]  # a rank on each, in this order
    run_dir: RunDir
    python: str
    environment: Mapping[str, str]  # what ranks inherit there
    working_directory: Optional[str] = None  # of a program; None: as the job says
    code: Optional[str] = None  # a folder of modules that came along
    compile_cache: Optional[str] = None  # folder of compiled graphs; None: the job wants none


def make_plan(
    spec: JobSpec,
    sites: Sequence[Site],
    *,
    run_id: str,
    name: str,
    created_at: float,
    ports: Ports,
    launched_from: str,
    command_line: Sequence[str],
    dataset: Optional[str] = None,
    rank_table: Optional[str] = None,
    attempt: int = 1,
    below: str = "",
) -> RunPlan:
    """Plan a run of *spec* with one rank on each device of *sites*, in their order. The *ports* are the first site's.

    With the text of a *rank_table* MindSpore's ranks meet by it, which must tell of the same ranks and devices; else in
    MindSpore's dynamic cluster. What the user set by hand in the environment that ranks inherit is left as it is where
    it only tunes (threads, instruction set, cache), and replaced where it says who a rank is.
    """
    size = sum(len(site.devices) for site in sites)
    first = sites[0]
    ranks: "list[Rank]" = []
    for group, site in enumerate(sites):
        ranks += _ranks_of(spec, site, group, len(ranks), size, first, ports, name, dataset, rank_table, attempt)
    eager = spec.framework == "mindspore"
    scheduler = None
    # one rank of a MindSpore job trains without collectives, and a rank table needs nobody who introduces the ranks
    if rank_table is None and (not eager or size > 1):
        scheduler = ProcessPlan(
            None,
            (first.python, "-c", _SCHEDULER_PROGRAM),
            {
                **_torch_meeting(first.host, ports),
                **_cluster_meeting(first.host, ports, size, None),
                "RANK_ID": "0",
                "RANK_SIZE": str(size),
                "DEVICE_ID": "0",
                "OMP_NUM_THREADS": "1",
                **spec.environment,
            },
            SCHEDULER,
            "scheduler.log",
        )
    on_demand = (first.host.address, ports.scheduler) if scheduler and not eager else None
    if below:
        ranks = [
            replace(rank, process=replace(rank.process, folder=f"{below}/{rank.process.folder}")) for rank in ranks
        ]
        scheduler = replace(scheduler, folder=f"{below}/{scheduler.folder}") if scheduler else None
    return RunPlan(
        run_id,
        name,
        created_at,
        spec,
        first.host.backend,
        tuple(ranks),
        scheduler,
        on_demand,
        dataset,
        first.python,
        launched_from,
        tuple(command_line),
        rank_table,
        attempt,
        below,
    )


def _ranks_of(
    spec: JobSpec,
    site: Site,
    group: int,
    first_rank: int,
    size: int,
    first: Site,
    ports: Ports,
    name: str,
    dataset: Optional[str],
    rank_table: Optional[str],
    attempt: int,
) -> "Iterator[Rank]":
    """Yield the ranks of one site, numbered from *first_rank*."""
    host, here = site.host, len(site.devices)
    shares = share_cpus(host.cpus, here)
    threads = max(1, len(host.cpus) // here)
    tuning = tuned(host, site.environment, threads=threads, compile_cache=site.compile_cache)
    for local_rank, device in enumerate(site.devices):
        rank_id = first_rank + local_rank
        folder = "train" if size == 1 else f"train_parallel{rank_id}"
        meeting = _table_meeting(site.run_dir) if rank_table else _cluster_meeting(first.host, ports, size, rank_id)
        variables = {
            **tuning,
            **_torch_meeting(first.host, ports),
            **meeting,
            "RANK_ID": str(rank_id),
            "RANK_SIZE": str(size),
            "DEVICE_ID": str(device.device_id),
            "DEVICE_NUM": str(here),
            "RANK": str(rank_id),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(here),
            "GROUP_RANK": str(group),
            "ASCENDRUN_RUN_NAME": name,
            "ASCENDRUN_ATTEMPT": str(attempt),
            "ASCENDRUN_BACKEND": host.backend,
            "ASCENDRUN_WORK_FOLDER": str(site.run_dir.work_folder(folder)),
            "ASCENDRUN_PROGRESS": str(site.run_dir.progress(folder)),
            **({"ASCENDRUN_DATASET": dataset} if dataset else {}),
            **cann_logs(host, site.environment, site.run_dir, folder),
            **spec.environment,
            **({"PYTHONPATH": _import_path(site.code, spec, site)} if site.code else {}),
        }
        process = ProcessPlan(
            rank_id,
            argv_of(spec, spec.module, site.python, host.backend, spec.config, dataset),
            variables,
            folder,
            "train.log",
            site.working_directory or spec.working_directory,
            shares[local_rank] if shares else None,
            device_id=device.device_id if host.backend == "ascend" else None,
            unset=tuple(one for one in (*(MEETING_VARIABLES if rank_table else ()), RESUME) if one not in variables),
        )
        yield Rank(rank_id, host.name, device.device_id, process)


def cann_logs(host: Host, environment: Mapping[str, str], run_dir: RunDir, folder: str) -> "dict[str, str]":
    """Return what brings CANN's own logs of a process into its folder of the run; nothing where the user says where."""
    if host.backend != "ascend" or CANN_LOGS in environment:
        return {}
    return {CANN_LOGS: str(run_dir.work_folder(folder) / "ascend")}


def _import_path(code: str, spec: JobSpec, site: Site) -> str:
    """Return PYTHONPATH with *code* in front of what the job, or else the host, has there (as CANN does)."""
    return ":".join(filter(None, (code, spec.environment.get("PYTHONPATH", site.environment.get("PYTHONPATH")))))


def compile_cache_key(spec: JobSpec, size: int, backend: str, versions: Sequence[str]) -> str:
    """Return a name for the compiled graphs of this job: equal only where the graphs are.

    *versions* names everything besides the job that shapes a graph: the code, MindSpore, Python.
    Paths are left out: they shape no graph.
    """
    import hashlib  # 3 ms that a launch without a compile cache need not spend

    config = {key: value for key, value in spec.config.items() if not key.endswith("_path")}
    facts = json.dumps([spec.module, config, size, backend, *versions], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def argv_of(
    spec: JobSpec,
    module: Optional[str],
    python: str,
    backend: str,
    config: Mapping[str, Scalar],
    dataset: Optional[str],
) -> "tuple[str, ...]":
    if module is None:
        assert spec.command is not None, "a JobSpec has one or the other"
        return spec.command
    settings = {key: value for key, value in config.items() if value is not None}
    if settings.get("device_target") == "auto":
        settings["device_target"] = _DEVICE_TARGETS[backend]
    if dataset is not None:
        settings["dataset_path"] = dataset
    return (python, "-m", module, *(f"--{key}={spell(value)}" for key, value in settings.items()))


def spell(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _torch_meeting(host: Host, ports: Ports) -> "dict[str, str]":
    """Return where PyTorch's ranks meet. Source: PyTorch, torchrun."""
    return {"MASTER_ADDR": host.address, "MASTER_PORT": str(ports.master)}


def _cluster_meeting(host: Host, ports: Ports, size: int, rank_id: Optional[int]) -> "dict[str, str]":
    """Return who a rank, or the scheduler (None), is in MindSpore's dynamic cluster.

    Source: MindSpore, environment variables of the dynamic cluster.
    """
    return {
        "MS_WORKER_NUM": str(size),
        "MS_SCHED_HOST": host.address,
        "MS_SCHED_PORT": str(ports.scheduler),
        "MS_ROLE": "MS_SCHED" if rank_id is None else "MS_WORKER",
        "MS_NODE_ID": SCHEDULER if rank_id is None else str(rank_id),
    }


def _table_meeting(run_dir: RunDir) -> "dict[str, str]":
    """Return where MindSpore finds the rank table; the second name is that of its first versions."""
    return {"RANK_TABLE_FILE": str(run_dir.rank_table), "MINDSPORE_HCCL_CONFIG_PATH": str(run_dir.rank_table)}


def _share_cpus(cpus: Sequence[int], size: int) -> "tuple[tuple[int, ...], ...]":
    """Return *size* equal runs of CPUs; nothing where a rank would get fewer than two.

    A rank on a single CPU is left free to move and only limited in threads: MindSpore's cluster client, confined to
    one, misses its own 40 ms limit again and again, and takes up to 80 s to join instead of 5.
    """
    each = len(cpus) // size
    if each < 2:
        return ()
    return tuple(tuple(cpus[rank * each : (rank + 1) * each]) for rank in range(size))


def tuning_of(
    host: Host, environment: Mapping[str, str], *, threads: int, compile_cache: Optional[str]
) -> "dict[str, str]":
    """Return the variables that make ranks fast beside one another; what the user has set is left out."""
    variables = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(threads)}
    if host.backend == "cpu" and "avx512f" in host.cpu_flags:
        # oneDNN in MindSpore 2.x falls to its reference convolution with AVX-512: 5 times slower than with AVX2.
        variables["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    if compile_cache is not None:
        variables["MS_COMPILER_CACHE_ENABLE"] = "1"
        variables["MS_COMPILER_CACHE_PATH"] = compile_cache
    return {name: value for name, value in variables.items() if name not in environment}
