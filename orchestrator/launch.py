"""Start a run on this machine: check, plan, write, hand over to a supervisor."""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Optional

from orchestrator.datasets import check_dataset
from orchestrator.errors import HostError, NameTakenError, RunDirError, SpecError
from orchestrator.inventory import Device, Host, select_devices
from orchestrator.jobspec import JobSpec, check_name
from orchestrator.plan import Ports, RunPlan, Site, compile_cache_key, make_plan
from orchestrator.store import Run, Store
from orchestrator.supervisor.journal import read_events
from orchestrator.supervisor.machine import free_ports
from orchestrator.supervisor.masking import MASK, looks_secret
from orchestrator.supervisor.rundir import RunDir, write_atomically
from orchestrator.transport import local

_MOST_OF_JOB_NAME = 40  # characters: the time and a number must fit into a run's name behind it


@dataclasses.dataclass(frozen=True)
class LaunchRequest:
    """What `ascendrun launch` was asked for, beside the job itself."""

    devices: Optional[str] = None  # None: as the job says
    backend: Optional[str] = None  # None: as the job says
    dataset: Optional[str] = None
    name: Optional[str] = None  # None: made from the job's name and the time
    run_dir: str = "runs"  # the folder in which the run gets its own
    master_port: Optional[int] = None  # None: free ones; else this one and the next
    rendezvous: Optional[str] = None  # None: as the job says
    rank_table: Optional[str] = None  # a file; None: one is made where it is needed
    resume: Optional[str] = None  # a checkpoint file here, absolute, that all ranks go on from
    skip_doctor: bool = False  # start without a look at what may make the run fail
    command_line: tuple[str, ...] = ()


def prepare(spec: JobSpec, request: LaunchRequest, environment: Mapping[str, str]) -> RunPlan:
    """Check everything that can be known beforehand, and return the plan. Nothing is written.

    Raises UserError or HostError naming what is wrong.
    """
    host = local.this_host(request.backend or spec.backend)
    devices, rank_table = _ranks(spec, request, host)
    dataset = _check_dataset(spec, request.dataset)
    _check_program(spec, environment)
    now = time.time()
    name = request.name or name_of(spec, now)
    check_name(name, "--name")
    site = Site(
        host,
        devices,
        RunDir(folder_of(request, name)),
        sys.executable,
        environment,
        compile_cache=compile_cache(spec, len(devices), host.backend),
    )
    plan = make_plan(
        spec,
        [site],
        run_id=f"{name}-{os.urandom(4).hex()}",
        name=name,
        created_at=now,
        ports=_ports(request.master_port),
        launched_from=os.getcwd(),
        command_line=without_secrets(request.command_line),
        dataset=dataset,
        rank_table=rank_table,
    )
    return plan if request.resume is None else plan.resuming({rank.rank_id: request.resume for rank in plan.ranks})


def name_of(spec: JobSpec, now: float) -> str:
    """Return the name of a run that its user gave none."""
    return f"{spec.name[:_MOST_OF_JOB_NAME]}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}"


def start(
    spec: JobSpec,
    request: LaunchRequest,
    environment: Mapping[str, str],
    store: Store,
    tell: "Callable[[str], None]" = lambda _: None,
) -> Run:
    """Start a run: make its folder, write what the host needs, start its supervisor; *tell* what may slow it down.

    Raises UserError or HostError; nothing runs and nothing is left behind then.
    """
    named, base = request, ""
    for attempt in itertools.count(2):
        plan = prepare(spec, named, environment)
        root = folder_of(named, plan.name)
        if plan.backend == "ascend" and named is request:
            _look(plan, root, request, tell)
        try:
            store.add(plan.name, root)
            break
        except NameTakenError:
            if request.name is not None:
                raise
            # another launch of this second took the name that we made up
            base = base or plan.name
            named = dataclasses.replace(request, name=f"{base}.{attempt}")
    run = Run(plan, RunDir(root))
    begin(run, lambda: store.forget(plan.name, root))
    if plan.backend != "ascend":  # nothing of it would stop us there, and the ranks need not wait for it
        _look(plan, root, request, tell)
    return run


def _look(plan: RunPlan, root: Path, request: LaunchRequest, tell: "Callable[[str], None]") -> None:
    """Tell what may slow the run down. Raises HostError where its devices would make it fail."""
    if request.skip_doctor:
        return
    from orchestrator import quicklook

    ascend = plan.backend == "ascend"
    try:
        facts = quicklook.here(plan.ranks[0].host, root, [rank.device_id for rank in plan.ranks] if ascend else None)
    except OSError:
        return  # a machine that does not let itself be looked at may run the job all the same
    for warning in quicklook.warnings_of([facts], ranks=len(plan.ranks), under_way=not ascend):
        tell(warning)


def begin(run: Run, undo: Callable[[], None]) -> None:
    """Write what the host needs into the existing, empty folder of *run*, and start its supervisor.

    Raises RunDirError or HostError. *undo* is called first, unless the run has begun and processes may live in it.
    """
    try:
        _write(run)
        local.start_watch(run.run_dir)
    except BaseException as exc:
        if not read_events(run.run_dir.journal)[0]:
            undo()
        if isinstance(exc, OSError):
            reason = f"cannot write the run folder {run.run_dir.root}: {exc.strerror}; choose another --run-dir"
            raise RunDirError(reason) from exc
        raise


def _write(run: Run) -> None:
    host_plan = run.plan.host_plan()
    run.run_dir.make_folders([process.folder for process in host_plan.processes])
    # 0600: the environment that a job gives its ranks may hold secrets
    write_atomically(run.run_dir.host_plan, host_plan.to_json(), mode=0o600)
    write_plan(run)


def write_plan(run: Run) -> None:
    """Write what was decided, as whoever watches reads it. Raises OSError."""
    if run.plan.rank_table is not None:
        write_atomically(run.run_dir.rank_table, run.plan.rank_table)
    write_atomically(run.run_dir.plan, run.plan.to_json(), mode=0o600)


def _ranks(spec: JobSpec, request: LaunchRequest, host: Host) -> "tuple[tuple[Device, ...], Optional[str]]":
    """Return the device of each rank, and the rank table if MindSpore's ranks meet by one."""
    wanted = devices_of(spec, request)
    ascend = host.backend == "ascend"
    # which version it is takes a look that a launch elsewhere need not spend
    version = _mindspore_version() if ascend else None
    if rendezvous_of(spec, request, ascend=ascend, mindspore=version) == "cluster":
        return select_devices(wanted, host.devices), None
    from orchestrator import ranktables  # most launches on one machine need none

    if request.rank_table is None:
        table, text = ranktables.of_this_machine(wanted)
    else:
        table, text = ranktables.of_users(request.rank_table, request.devices, host)
    return tuple(Device(device_id) for device_id in table.devices_by_rank()), text


def devices_of(spec: JobSpec, request: LaunchRequest) -> str:
    """Return what is asked for of each host, as `--devices` says it."""
    return str(spec.devices) if request.devices is None else request.devices


def rendezvous_of(spec: JobSpec, request: LaunchRequest, *, ascend: bool, mindspore: Optional[str]) -> str:
    """Return how MindSpore's ranks meet: `rank-table` or `cluster`. Raises SpecError for a contradiction.

    If nobody says: MindSpore 1.x knows rank tables only, later versions advise against them.
    """
    wanted = request.rendezvous or spec.rendezvous
    if request.rank_table is not None:
        if wanted == "cluster":
            raise SpecError("--rank-table goes with --rendezvous rank-table; in a cluster the ranks find one another")
        return "rank-table"
    if wanted != "auto":
        return wanted
    return "rank-table" if ascend and (mindspore or "").startswith("1.") else "cluster"


def _mindspore_version() -> Optional[str]:
    from importlib.metadata import PackageNotFoundError, version

    for name in ("mindspore", "mindspore-ascend"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def without_secrets(words: Sequence[str]) -> "tuple[str, ...]":
    """Mask the values of `environment.NAME=VALUE` whose name looks secret: the plan is kept and handed on."""
    masked = []
    for word in words:
        setting, equals, _ = word.partition("=")
        variable = setting.rpartition("environment.")[2]
        hidden = bool(equals) and variable != setting and looks_secret(variable)
        masked.append(f"{setting}={MASK}" if hidden else word)
    return tuple(masked)


def folder_of(request: LaunchRequest, name: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(request.run_dir))) / name


def compile_cache(spec: JobSpec, size: int, backend: str) -> Optional[str]:
    """Return the folder for the compiled graphs of this very job, code and MindSpore; None: it wants none."""
    if not spec.compile_cache or spec.module is None:
        return None
    versions = (_code_digest(spec.module), _mindspore_version() or "none", sys.version)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "ascendrun", "graphs", compile_cache_key(spec, size, backend, versions))


def _code_digest(module: str) -> str:
    """Return the SHA-256 of the Python files of the package that *module* belongs to."""
    import hashlib
    import importlib.util

    digest = hashlib.sha256()
    spec = importlib.util.find_spec(module.partition(".")[0])
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).rglob("*.py")):
            digest.update(f"{file.relative_to(folder)}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _check_dataset(spec: JobSpec, dataset: Optional[str]) -> Optional[str]:
    path = dataset_path(spec, dataset)
    if path is None:
        return None
    folder = Path(path)
    if spec.dataset is not None:
        check_dataset(spec.dataset.layout, folder)
    elif not folder.exists():
        raise SpecError(f"--dataset {dataset}: no such file or folder")
    return path


def dataset_path(spec: JobSpec, dataset: Optional[str]) -> Optional[str]:
    """Return where the dataset of `--dataset` lies; None: the job has none. Raises SpecError where it needs one."""
    if dataset is not None:
        return os.path.abspath(os.path.expanduser(dataset))
    if spec.dataset is not None:
        raise SpecError(f"the job {spec.name} needs a dataset: give --dataset DIR (layout {spec.dataset.layout})")
    return None


def _check_program(spec: JobSpec, environment: Mapping[str, str]) -> None:
    import importlib.util
    import shutil

    if spec.command is not None:
        program = spec.command[0]
        where = os.path.join(spec.working_directory or os.getcwd(), program) if os.sep in program else program
        if spec.working_directory is not None and not os.path.isdir(spec.working_directory):
            raise SpecError(f"working_directory {spec.working_directory}: no such folder")
        if shutil.which(where, path=environment.get("PATH", os.defpath)) is None:
            raise SpecError(
                f"cannot run '{program}': no such program"
                + (" in PATH" if os.sep not in program else f" (looked for {where})")
            )
    else:
        assert spec.module is not None, "a JobSpec has one or the other"
        if importlib.util.find_spec(spec.module.partition(".")[0]) is None:
            raise SpecError(f"module {spec.module}: not installed for {sys.executable}")
    if spec.framework == "mindspore" and importlib.util.find_spec("mindspore") is None:
        raise HostError(
            f"MindSpore is not installed for {sys.executable}: pip install 'ascendrun[cpu]' "
            "(with CANN on an Ascend host: 'ascendrun[ascend]')"
        )


def _ports(master: Optional[int]) -> Ports:
    if master is None:
        return Ports(*free_ports(2, "127.0.0.1"))
    for port in (master, master + 1):
        if not local.is_port_free(port):
            raise SpecError(
                f"--master-port {master}: port {port} is in use on this host"
                + (" (the port after it is MindSpore's scheduler's)" if port != master else "")
                + "; leave the option away and free ones are chosen"
            )
    return Ports(master, master + 1)


def job_for_command(argv: Sequence[str]) -> JobSpec:
    """Return the job of `launch -- PROGRAM ARGUMENTS`: it runs where the user stands, as with msrun."""
    return JobSpec.for_command(argv, os.getcwd())
