"""Jobs, plans and run folders that several tests share. Made by the code under test: nothing is mocked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.inventory import Device, Host
from orchestrator.jobspec import JobSpec
from orchestrator.plan import Ports, RunPlan, Site, make_plan
from orchestrator.store import Run
from orchestrator.supervisor import events
from orchestrator.supervisor.journal import Journal
from orchestrator.supervisor.rundir import RunDir


@pytest.fixture(scope="session")
def make_host() -> Callable[..., Host]:
    """Return a function that makes a host with so many devices and CPUs."""

    def make(devices: int = 8, cpus: int = 8, backend: str = "cpu", flags: Iterable[str] = ()) -> Host:
        ids = tuple(Device(device_id) for device_id in range(devices))
        return Host("node1", "127.0.0.1", backend, ids, tuple(range(cpus)), frozenset(flags))

    return make


@pytest.fixture(scope="session")
def make_run_plan(make_host: Callable[..., Host]) -> Callable[..., RunPlan]:
    """Return a function that plans a job; every argument of make_plan can be given, and *ranks*."""

    def make(spec: "JobSpec | None" = None, *, host: "Host | None" = None, ranks: int = 2, **changes: Any) -> RunPlan:
        host = host or make_host()
        arguments: "dict[str, Any]" = {
            "run_id": "run-1-abcd",
            "name": "run-1",
            "created_at": 1_700_000_000.0,
            "ports": Ports(29500, 29501),
            "launched_from": "/home/me",
            "command_line": ("ascendrun", "launch"),
        }
        site = Site(
            host,
            changes.pop("devices", host.devices[:ranks]),
            changes.pop("run_dir", RunDir(Path("/runs/run-1"))),
            changes.pop("python", "/usr/bin/python3"),
            changes.pop("environment", {}),
            compile_cache=changes.pop("compile_cache", None),
        )
        return make_plan(
            spec or JobSpec(name="job", command=("python", "train.py")), [site], **{**arguments, **changes}
        )

    return make


@pytest.fixture(scope="session")
def make_run(make_run_plan: Callable[..., RunPlan]) -> Callable[..., Run]:
    """Return a function that writes the folder of a run that has ended well."""

    def make(root: Path, name: str = "run-1", *, ranks: int = 2, spec: "JobSpec | None" = None) -> Run:
        run_dir = RunDir(root)
        plan = make_run_plan(spec, ranks=ranks, name=name, run_id=f"{name}-abcd", run_dir=run_dir)
        root.mkdir(parents=True, exist_ok=True)
        run_dir.make_folders([process.folder for process in plan.host_plan().processes])
        run_dir.host_plan.write_text(plan.host_plan().to_json(), encoding="utf-8")
        run_dir.plan.write_text(plan.to_json(), encoding="utf-8")
        journal = Journal(run_dir.journal, "node1")
        journal.append(events.RUN_STARTED, {"pid": 4})
        for rank in range(ranks):
            journal.append(events.PROCESS_STARTED, {"process": f"rank-{rank}", "pid": 5 + rank}, rank=rank)
            journal.append(events.PROCESS_EXITED, {"process": f"rank-{rank}", "code": 0}, rank=rank)
        journal.append(events.RUN_FINISHED)
        journal.close()
        return Run(plan, run_dir)

    return make
