"""Start a run on far hosts, and go on as its controller."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, cast

from orchestrator import controller, launch
from orchestrator.attempts import LeftError, Order, begin, prepare, record
from orchestrator.errors import AscendrunError, HostError, RunDirError, SpecError
from orchestrator.inventory import Inventory
from orchestrator.jobspec import JobSpec, check_name
from orchestrator.store import Run, Store
from orchestrator.supervisor.rundir import RunDir
from orchestrator.supervisor.starting import Parting, run_apart
from orchestrator.transport.fanout import Fleet, open_all


@dataclass(frozen=True)
class Way:
    """How hosts are reached, where not as ~/.ssh/config says."""

    ssh_config: Optional[Path] = None
    accept_new_host_keys: bool = False


def start(
    spec: JobSpec,
    request: launch.LaunchRequest,
    inventory: Inventory,
    store: Store,
    way: Way,
    tell: "Callable[[str], None]" = lambda _: None,
) -> Run:
    """Start a run on the hosts of *inventory*; *tell* what may slow it down.

    Raises UserError or HostError; nothing runs anywhere then.
    """
    entries = [entry for entry in inventory.entries if not entry.spare]
    if not entries:
        raise SpecError("all hosts are spare: nobody is left to take ranks")
    now = time.time()
    name = request.name or launch.name_of(spec, now)
    check_name(name, "--name")
    order = Order(
        spec,
        request,
        inventory.entries,
        str(way.ssh_config.expanduser().absolute()) if way.ssh_config else None,
        name,
        f"{name}-{os.urandom(4).hex()}",
        now,
        launch.dataset_path(spec, request.dataset),
        os.getcwd(),
        launch.folder_of(request, name),
    )

    def work(parting: Parting) -> None:
        told = False

        def under_way(run_dir: RunDir, warnings: "tuple[str, ...]") -> None:
            nonlocal told
            parting.leave(run_dir)
            parting.say(pickle.dumps((str(run_dir.root), warnings)))
            told = True

        try:
            with open_all(entries, ssh_config=way.ssh_config, accept_new_host_keys=way.accept_new_host_keys) as fleet:
                _launch(fleet, order, store, parting.go_on, under_way)
        except (AscendrunError, OSError, KeyboardInterrupt) as exc:
            if told:
                raise
            parting.say(pickle.dumps(_plain(exc)))

    # Who launches goes on as the controller: hosts are dialled once, and a passphrase is asked for once.
    said = run_apart(work)
    if not said:
        raise HostError("the launch was killed before it was under way")
    answer = pickle.loads(said)  # of our own process
    if isinstance(answer, BaseException):
        raise answer
    root, warnings = answer
    for warning in warnings:
        tell(warning)
    return Run.read(Path(root))


def _plain(exc: BaseException) -> BaseException:
    """Return an error of ours as one that needs no more than its text to be made again."""
    if not isinstance(exc, AscendrunError):
        return exc
    kind = next(one for one in type(exc).__mro__ if one.__module__ == AscendrunError.__module__)
    return cast(BaseException, kind(str(exc)))


def _launch(
    fleet: Fleet,
    order: Order,
    store: Store,
    begins: "Callable[[], None]",
    under_way: "Callable[[RunDir, tuple[str, ...]], None]",
) -> None:
    """Start the run, and control it to its end."""
    prepared = prepare(fleet, order, 1)
    run = Run(prepared.plan, RunDir(order.root))
    begins()
    store.add(order.name, order.root)
    try:
        record(run, prepared.far)
        # Before anything runs on any host: whoever looks then finds it, should we be killed.
        controlling = controller.Controller.of(run.run_dir, fleet.roads)
        assert controlling is not None, "the folder is new"
        lines = begin(fleet, prepared, order)
    except LeftError:
        raise
    except BaseException as exc:
        store.forget(order.name, order.root)
        if isinstance(exc, OSError):
            reason = f"cannot write the run folder {order.root}: {exc.strerror}; choose another --run-dir"
            raise RunDirError(reason) from exc
        raise
    controlling.go(lambda: under_way(run.run_dir, prepared.warnings), lines)
