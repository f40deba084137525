"""Puts each fault of the suite into a run of its own, and tells what became of it: `python -m tests.chaos`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Optional

import yaml

from orchestrator.errors import HostError
from orchestrator.rehearsal import Fault, Outturn, rehearse
from orchestrator.runstate import RunState
from orchestrator.store import Run
from tests.chaos.faults import Chaos, Scene
from tests.conftest import ASCENDRUN, processes_below
from tests.testbed.bed import Testbed

_HERE = Path(__file__).resolve().parent
_PATIENCE_S = 150.0


def run_all(chosen: Sequence[Chaos], together: str, at_once: int) -> "list[Outturn]":
    """Return what became of each fault; *together* is what ranks sum by: sockets or mindspore."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda chaos: run_one(chaos, together), chosen))


def run_one(chaos: Chaos, together: str) -> Outturn:
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        bed = Testbed.up(chaos.hosts + chaos.spares) if chaos.hosts else None
        try:
            return _run_in(chaos, together, folder, bed)
        except Exception as exc:  # of the drill itself: the others go on
            traceback.print_exc()
            return Outturn(chaos.name, None, False, "", None, None, 0, (), f"the drill failed: {exc}")
        finally:
            for pid in processes_below(folder):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if bed is not None:
                bed.down()
            subprocess.run(["umount", f"{folder}/runs"], capture_output=True)


def _run_in(chaos: Chaos, together: str, folder: Path, bed: Optional[Testbed]) -> Outturn:
    orders = (bed.shared if bed else folder) / "orders"
    orders.mkdir()
    scene = Scene(folder, orders, bed)
    environment = _environment(folder, bed)
    if chaos.name.startswith("clock"):
        environment |= _clock(folder, orders)
    if chaos.name.startswith("disk"):
        (folder / "runs").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", f"{folder}/runs"], check=True)
    words = [ASCENDRUN, "launch", _job(chaos, together, folder, orders, bed), "--name", "r", "--detach"]
    words += (
        ["--devices", "1", "--hosts", _hosts(chaos, folder, bed), "--ssh-config", str(bed.ssh_config)]
        if bed
        else ["--devices", "2"]
    )

    def launch() -> Run:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise HostError(done.stderr)
        return Run.read(folder / "runs/r")

    if chaos.at_start or not chaos.restarts:
        outturn = _without_restart(chaos, scene, launch)
    else:
        fault = Fault(
            chaos.name, lambda run, state: chaos.inject(scene, run, state), chaos.causes, chaos.rank, chaos.host
        )
        outturn = rehearse(fault, launch, patience_s=_PATIENCE_S)
    for undo in scene.undo:
        undo()
    left = tuple(f"{pid}: {command}" for pid, command in _settled(folder).items())
    lost = max(0, outturn.checkpoints_lost - chaos.checkpoints_lost)
    return replace(outturn, checkpoints_lost=lost, left=(*outturn.left, *left))


def _without_restart(chaos: Chaos, scene: Scene, launch: "object") -> Outturn:
    """A fault that no other try would help: the run must end, say why, and keep its checkpoints."""
    from orchestrator.monitor import Follower

    run = launch()  # type: ignore[operator]
    follower = Follower(run)
    over = time.monotonic() + _PATIENCE_S
    if not chaos.at_start:
        for state in follower.states():
            if state.checkpoints or state.finished or time.monotonic() > over:
                break
    before = follower.state()
    chaos.inject(scene, run, before)
    began = time.monotonic()
    detected: Optional[float] = None
    for state in follower.states():
        if state.earlier and detected is None:
            detected = time.monotonic() - began
        if time.monotonic() > over:
            break
    state = follower.state()
    told = state.earlier[0] if state.earlier else {}
    right = told.get("cause") in chaos.causes and told.get("rank") == chaos.rank and not told.get("restart")
    said = f"{told.get('cause')}: {told.get('sentence')}"
    lost = sum(not Path(one["path"]).exists() for one in _whole(before))
    problem = None if state.finished else "it did not end"
    return Outturn(chaos.name, detected, right, said, 0.0 if state.finished else None, None, lost, (), problem)


def _whole(state: RunState) -> "list[dict[str, str]]":
    return [dict(one) for one in state.checkpoints]


def _environment(folder: Path, bed: Optional[Testbed]) -> "dict[str, str]":
    mine = {key: value for key, value in os.environ.items() if not key.startswith("ASCENDRUN_")}
    mine["ASCENDRUN_HOME"] = str(folder / "home")
    return {**mine, "HOME": str(bed.home)} if bed else mine


def _job(chaos: Chaos, together: str, folder: Path, orders: Path, bed: Optional[Testbed]) -> str:
    (folder / "trainer.py").write_bytes((_HERE / "trainer.py").read_bytes())
    seen = f"/srv/shared/{orders.relative_to(bed.shared)}" if bed else str(orders)
    document = {
        "name": "chaos",
        "command": [sys.executable, *(["-S"] if together == "sockets" else []), "trainer.py", together],
        "working_directory": str(folder),
        "environment": {"CHAOS": seen, **chaos.environment},
        "hang_after": chaos.hang_after_s if together == "sockets" else max(25.0, chaos.hang_after_s),
        "restart": {"backoff_s": 0, "on_host_lost": chaos.on_host_lost, "host_lost_after_s": 2, "max_restarts": 3},
    }
    (folder / "chaos.yaml").write_text(yaml.safe_dump(document))
    return "chaos.yaml"


def _hosts(chaos: Chaos, folder: Path, bed: Testbed) -> str:
    document = yaml.safe_load(bed.hosts_yaml.read_text())
    for one in document["hosts"][chaos.hosts :]:
        one["spare"] = True
    (folder / "hosts.yaml").write_text(yaml.safe_dump(document))
    return "hosts.yaml"


def _clock(folder: Path, orders: Path) -> "dict[str, str]":
    library = folder / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(_HERE / "clock.c"), "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "CHAOS": str(orders)}


def _settled(folder: Path) -> "dict[int, str]":
    """Return the processes of the run that are still there once all has had its time to end."""
    over = time.monotonic() + 15
    while (left := processes_below(folder)) and time.monotonic() < over:
        time.sleep(0.1)
    return left
