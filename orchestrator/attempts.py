"""An attempt of a run on its hosts: look at all of them, refuse what cannot work, plan, send, begin."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Optional, TypeVar, Union

from orchestrator import addresses, bundle, farside, launch, quicklook, ranktables
from orchestrator.errors import HostError, SpecError
from orchestrator.farhosts import FarHost, FarHosts, Line, keep
from orchestrator.hosts import PYTHON
from orchestrator.inventory import Device, Host, HostEntry, select_devices, spell_ids
from orchestrator.jobspec import JobSpec
from orchestrator.plan import HEEDED_VARIABLES, Ports, RunPlan, Site, compile_cache_key, make_plan
from orchestrator.ranktable.model import RankTable
from orchestrator.store import Run
from orchestrator.supervisor import events
from orchestrator.supervisor.events import Event
from orchestrator.supervisor.hostplan import SCHEDULER
from orchestrator.supervisor.rundir import RunDir, write_atomically
from orchestrator.transport.base import Transport
from orchestrator.transport.fanout import Fleet
from orchestrator.transport.local import offer

WORK_FOLDER = "~/ascendrun"
MOST_CLOCK_S = 30.0  # between two clocks: beyond it logs and certificates mislead
_ANSWER_S = 60.0  # for one that is slow, and for the fullest of disks
CACHE = ".ascendrun"  # below the work folder: what we sent, by content
T = TypeVar("T")


@dataclass(frozen=True)
class Looked:
    """What a far host said of itself, and what was sent to it."""

    entry: HostEntry
    archive: str  # the folder of our supervisor there
    code: Optional[str]  # the folder that has the job's package there
    line: Line  # over which it said so, and will be told to begin
    facts: Mapping[str, Any]  # as farside.look gives them
    clock_off_s: tuple[float, float]  # its clock is ahead of ours by at least, at most


@dataclass(frozen=True)
class Order:
    """What a run is to be: enough to plan any of its attempts."""

    spec: JobSpec
    request: launch.LaunchRequest
    inventory: tuple[HostEntry, ...]  # spare ones too
    ssh_config: Optional[str]
    name: str
    run_id: str
    created_at: float  # s since 1970
    dataset: Optional[str]
    launched_from: str
    root: Path  # the run folder here

    @classmethod
    def again(cls, run: Run, far: FarHosts) -> "Order":
        """Return the order by which a run under way was launched."""
        plan, stored = run.plan, dict(far.request)
        stored["command_line"] = tuple(stored.get("command_line", ()))
        return cls(
            plan.spec,
            launch.LaunchRequest(**stored),
            far.inventory,
            far.ssh_config,
            plan.name,
            plan.run_id,
            plan.created_at,
            plan.dataset,
            plan.launched_from,
            run.run_dir.root,
        )

    def below(self, attempt: int) -> str:
        """Return where in the run folder, here and on each host, an attempt lies; "": in it."""
        return f"attempts/{attempt}" if self.spec.restart is not None else ""


@dataclass(frozen=True)
class Prepared:
    """An attempt that can begin: its plan, where its parts will live, and hosts that wait to be told."""

    plan: RunPlan
    far: FarHosts
    looked: "tuple[Looked, ...]"
    warnings: tuple[str, ...] = ()  # of what may slow it down


def prepare(fleet: Fleet, order: Order, attempt: int) -> Prepared:
    """Look at all hosts of *fleet*, refuse what cannot work, and plan. Raises UserError or HostError."""
    looked = _look(fleet, order, attempt)
    _refuse_unlike(looked, order.spec)
    table = _rank_table(fleet, order.spec, order.request, looked)
    prepared = _plan(order, attempt, looked, table)
    return replace(prepared, warnings=_warnings(prepared))


# ── looking ────────────────────────────────────────────────────────────────────────────────────────────────


def _look(fleet: Fleet, order: Order, attempt: int) -> "list[Looked]":
    spec = order.spec
    supervisor = bundle.supervisor_archive()
    code = None if spec.module is None else bundle.module_archive(spec.module)
    # A host that sees this file shares the folder that the program runs in.
    token = Path(order.launched_from) / f".ascendrun-{os.urandom(8).hex()}"
    asked = {
        "modules": ["mindspore", "mindspore-ascend"] if spec.framework == "mindspore" else [],
        "dataset": order.dataset,
        "layout": spec.dataset.layout if spec.dataset else None,
        "ports": 2,
        "shared": str(token),
        "environment": HEEDED_VARIABLES,
        "program": spec.command[0] if spec.command else None,
    }
    glances = attempt == 1 and not order.request.skip_doctor
    on_cpus = (order.request.backend or spec.backend) == "cpu"

    def look(entry: HostEntry, transport: Transport) -> Looked:
        work = entry.work_folder or WORK_FOLDER
        archive, *code_there = keep(transport, f"{work}/{CACHE}", [supervisor, *([code] if code else [])])
        # on this machine the run folder is its own
        root = order.root if entry.is_this_machine() else Path(archive).parents[1] / order.name
        python = entry.python or (sys.executable if entry.is_this_machine() else PYTHON)
        far = FarHost(entry, python, archive, str(root / order.below(attempt)))
        line = Line(far, transport, ["launch"])
        named = None if on_cpus else [device.device_id for device in entry.devices or ()]
        began = time.time()
        line.say({**asked, "folder": far.root, "glance": quicklook.question(named) if glances else None})
        try:
            facts = farside.read_facts(line.hear(_ANSWER_S))
        except ValueError as exc:
            raise HostError(f"{entry.name}: {far.python} there does not answer as ours: {exc}") from exc
        ended = time.time()
        off_s = (facts["time"] - ended, facts["time"] - began)
        return Looked(entry, archive, code_there[0] if code_there else None, line, facts, off_s)

    try:
        token.touch()
        return list(_all(fleet, look).values())
    except OSError as exc:
        raise SpecError(f"cannot write to {order.launched_from}: {exc.strerror}") from exc
    finally:
        token.unlink(missing_ok=True)


def _all(fleet: Fleet, do: "Callable[[HostEntry, Transport], T]") -> "dict[str, T]":
    """Return what *do* gives on each host, by its name. Raises HostError where one does not answer."""
    told = fleet.each(do)
    _raise_first(told.values())
    return {name: one for name, one in told.items() if not isinstance(one, HostError)}


def _raise_first(told: "Any") -> None:
    broken = [one for one in told if isinstance(one, HostError)]
    if broken:
        more = f" (and {len(broken) - 1} more: `ascendrun hosts` asks each)" if len(broken) > 1 else ""
        raise HostError(f"{broken[0]}{more}")


def _refuse_unlike(looked: "Sequence[Looked]", spec: JobSpec) -> None:
    """Raise HostError for a host that cannot take part, or not together with the others."""
    first = looked[0]
    places: "dict[str, str]" = {}
    for one in looked:
        name, facts = one.entry.name, one.facts
        place = str(facts["place"])
        if facts["folder_problem"]:
            raise HostError(f"{name}: {facts['folder_problem']}; choose another --name, or work_folder in hosts.yaml")
        if facts["program_problem"]:
            raise HostError(f"{name}: {facts['program_problem']}")
        if facts["dataset_problem"]:
            raise HostError(f"{name}: {facts['dataset_problem']}")
        off_s = max(one.clock_off_s[0], -one.clock_off_s[1])  # at least
        if off_s > MOST_CLOCK_S:
            raise HostError(f"{name}: its clock is {off_s:.0f} s off this machine's; set it (chronyd, ntpd)")
        if place in places:
            raise HostError(f"{name}: is the same machine as {places[place]}; name it once")
        places[place] = name
        for package, there in facts["versions"].items():
            usual = first.facts["versions"][package]
            if there != usual:
                raise HostError(
                    f"{name}: has {package} {there or '(none)'}, {first.entry.name} has {usual or '(none)'}; "
                    "all ranks need the same"
                )
    if spec.framework == "mindspore" and not any(first.facts["versions"].values()):
        raise HostError(f"{first.entry.name}: MindSpore is not installed for {first.facts['executable']}")


def _warnings(prepared: Prepared) -> "tuple[str, ...]":
    """Return what may slow the run down. Raises HostError with what would make it fail."""
    ranks = prepared.plan.ranks
    used: "dict[str, list[int]]" = {}
    for rank in ranks:
        used.setdefault(rank.host, []).append(rank.device_id)
    facts = [
        quicklook.of_told(one.entry.name, one.facts["glanced"], one.clock_off_s, used[one.entry.name])
        for one in prepared.looked
        if one.facts.get("glanced") and one.entry.name in used
    ]
    return tuple(quicklook.warnings_of(facts, ranks=len(ranks))) if facts else ()


# ── planning ───────────────────────────────────────────────────────────────────────────────────────────────


def _rank_table(
    fleet: Fleet, spec: JobSpec, request: launch.LaunchRequest, looked: "Sequence[Looked]"
) -> "Optional[tuple[RankTable, str]]":
    """Return the rank table by which MindSpore's ranks meet, and its text; None: they meet in a cluster."""
    version = next((one for one in looked[0].facts["versions"].values() if one), None)
    ascend = bool(looked[0].facts["ascend"]) and (request.backend or spec.backend) != "cpu"
    if launch.rendezvous_of(spec, request, ascend=ascend, mindspore=version) == "cluster":
        return None
    found = _all(fleet, addresses.ask)
    if request.rank_table is None:
        chosen = [addresses.choose(one, launch.devices_of(spec, request)) for one in found.values()]
        table, product = ranktables.make(chosen, None, None)
        return table, ranktables.text_of(table, product=product)[0]
    return ranktables.of_users_hosts(request.rank_table, {one.server.server_id: one for one in found.values()})


def _plan(order: Order, attempt: int, looked: "Sequence[Looked]", table: "Optional[tuple[RankTable, str]]") -> Prepared:
    """Return the plan, and where its parts live. Raises SpecError or HostError."""
    spec, request = order.spec, order.request
    wanted = launch.devices_of(spec, request)
    sites, hosts = [], []
    of_server = {}
    if table is not None:  # then its servers say which ranks a host has
        of_server = {server.server_id: server for server in table[0].servers}
        by_id = {one.entry.server_id or one.entry.address: one for one in looked}
        looked = [by_id[server_id] for server_id in of_server]
    for one in looked:
        facts, run_dir = one.facts, RunDir(Path(one.facts["folder"]))
        host = host_of(one, request.backend or spec.backend, alone=len(looked) == 1)
        server = of_server.get(one.entry.server_id or one.entry.address)
        if server is None:
            devices = select_devices(wanted, host.devices)
        else:
            ranked = sorted(server.devices, key=lambda device: device.rank_id)
            devices = tuple(Device(device.device_id) for device in ranked)
        directory = None  # of a module: each rank's own work folder
        if spec.command is not None:
            directory = spec.working_directory if facts["shared"] else str(run_dir.code)
        cache = _compile_cache(one, spec, len(devices) * len(looked), host.backend)
        sites.append(
            Site(host, devices, run_dir, facts["executable"], facts["environment"], directory, one.code, cache)
        )
        hosts.append(FarHost(one.entry, facts["executable"], one.archive, facts["folder"], order.below(attempt)))
    if len({site.host.backend for site in sites}) > 1:
        raise HostError("some hosts have Ascend devices and some have none; say --backend cpu, or leave those out")
    ports = Ports(*looked[0].facts["ports"])
    plan = make_plan(
        spec,
        sites,
        run_id=order.run_id,
        name=order.name,
        created_at=order.created_at,
        ports=ports if request.master_port is None else Ports(request.master_port, request.master_port + 1),
        launched_from=order.launched_from,
        command_line=launch.without_secrets(request.command_line),
        dataset=order.dataset,
        rank_table=None if table is None else table[1],
        attempt=attempt,
        below=order.below(attempt),
    )
    hosts = [
        replace(host, folders=tuple(process.folder for process in plan.host_plan(host.name).processes))
        for host in hosts
    ]
    far = FarHosts(tuple(hosts), order.ssh_config, inventory=order.inventory, request=asdict(request))
    return Prepared(plan, far, tuple(looked))


def _compile_cache(one: Looked, spec: JobSpec, size: int, backend: str) -> Optional[str]:
    """Return the folder on a host for the compiled graphs of this very job; None: it wants none."""
    if one.entry.is_this_machine():
        return launch.compile_cache(spec, size, backend)
    if not spec.compile_cache or one.code is None:
        return None
    versions = (os.path.basename(one.code), *map(str, one.facts["versions"].values()), one.facts["executable"])
    return os.path.join(os.path.dirname(one.archive), "graphs", compile_cache_key(spec, size, backend, versions))


def host_of(one: Looked, backend: str, *, alone: bool) -> Host:
    """Return a host as a plan has it. Raises HostError where it lacks the devices for *backend*."""
    facts, entry = one.facts, one.entry
    ascend, cpus = facts["ascend"], facts["cpus"]
    if backend == "ascend" and not ascend:
        raise HostError(f"{entry.name}: has no Ascend device (no /dev/davinci0); use --backend cpu, or auto")
    backend, ids = offer(backend, ascend, len(cpus))
    if entry.devices is not None:
        wanted = [device.device_id for device in entry.devices]
        if backend == "ascend" and not set(wanted) <= set(ids):
            missing = spell_ids(sorted(set(wanted) - set(ids)))
            raise HostError(
                f"{entry.name}: has no device {missing}, which the hosts file names; it has {spell_ids(ids)}"
            )
        ids = wanted
    # What SSH dialled is a way to that host for the others too; ranks that are alone need no network.
    address = "127.0.0.1" if alone else facts["address"] or entry.address
    if entry.is_this_machine() and not alone and not facts["address"]:
        address = addresses.own_address()
    devices = tuple(Device(device_id) for device_id in ids)
    return Host(entry.name, address, backend, devices, tuple(cpus), frozenset(facts["cpu_flags"]))


# ── starting ───────────────────────────────────────────────────────────────────────────────────────────────


def record(run: Run, far: FarHosts) -> None:
    """Write what is known of an attempt into the run folder, before it begins. Raises OSError."""
    below = run.run_dir.root / run.plan.below
    for folder in (below.parent, run.run_dir.processes, run.run_dir.requests):
        folder.mkdir(parents=True, exist_ok=True)
    if all(Path(host.root) != below for host in far.hosts):  # else it is a host's own to make
        below.mkdir(exist_ok=True)
        for name in [*(rank.process.folder for rank in run.plan.ranks), os.path.join(run.plan.below, SCHEDULER)]:
            run.run_dir.work_folder(name).mkdir(exist_ok=True)
    write_atomically(run.run_dir.hosts, far.to_json(), mode=0o600)
    launch.write_plan(run)


def begin(fleet: Fleet, prepared: Prepared, order: Order) -> "dict[str, Line]":
    """Start all hosts' parts; return, by host, the line over which it now tells its events.

    Raises HostError where one cannot begin; those that had begun are ended then.
    """
    plan, hosts = prepared.plan, prepared.far.by_name()
    lines = {one.entry.name: one.line for one in prepared.looked}
    sent = {host.name: str(RunDir(Path(host.root)).code) for host in prepared.far.hosts}
    need = {rank.host for rank in plan.ranks if rank.process.working_directory == sent[rank.host]}
    folder = _users_folder(order) if need else None

    def begin_there(entry: HostEntry, transport: Transport) -> None:
        host = hosts[entry.name]
        unpack = None
        if folder is not None and host.name in need:
            (unpack,) = keep(transport, str(Path(host.archive).parent), [folder])
        told = {"host_plan": asdict(plan.host_plan(host.name)), "unpack": unpack, "rank_table": plan.rank_table}
        lines[host.name].say(told)
        lines[host.name].hear(_ANSWER_S)

    begun = fleet.each(begin_there)
    if any(isinstance(one, HostError) for one in begun.values()):
        undone = _undo(fleet, hosts, plan.run_id)
        lost = [name for name, one in undone.items() if isinstance(one, HostError)]
        if lost:
            why = next(one for one in begun.values() if isinstance(one, HostError))
            raise LeftError(f"{why}; {', '.join(lost)} may run on: `ascendrun stop {plan.name}` ends that")
    _raise_first(begun.values())
    return lines


def _users_folder(order: Order) -> bundle.Archive:
    """Return the folder of the user's program as it was at the launch: each attempt runs the same. Raises SpecError."""
    kept = RunDir(order.root).sent_code
    try:
        return bundle.stored(kept)
    except FileNotFoundError:
        archive = bundle.folder_archive(Path(order.launched_from))
        kept.write_bytes(archive.content)
        return archive


class LeftError(HostError):
    """A launch failed, and something of it may run on."""


def _undo(fleet: Fleet, hosts: "Mapping[str, FarHost]", run_id: str) -> "dict[str, Union[HostError, None]]":
    """End what was started, wait until it has, and remove it; return why some hosts could not be asked."""

    def stop(entry: HostEntry, transport: Transport) -> None:
        host = hosts[entry.name]
        # Another launch may have taken the folder meanwhile, and be the reason why we failed.
        if transport.run(["grep", "-qF", f'"{run_id}"', str(RunDir(Path(host.root)).host_plan)]).code != 0:
            return
        host.stop(transport, 0.0, "a launch that failed on another host")
        with host.follow(transport, 0) as line:
            while True:
                event = Event.from_line(line.hear(_ANSWER_S))
                if event is not None and event.kind == events.RUN_FINISHED:
                    break
        transport.run(["rm", "-rf", "--", host.root])

    return fleet.each(stop)
