"""All that goes wrong in the chaos suite, and what must be said of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from orchestrator import drills
from orchestrator.runstate import RunState
from orchestrator.store import Run
from tests.testbed.bed import Testbed

HANGS = frozenset({"hang", "hang_in_collective"})


@dataclass
class Scene:
    """Where a fault takes place."""

    folder: Path  # on this machine
    chaos: Path  # the folder of orders to ranks, here
    bed: Optional[Testbed] = None  # None: the run is on this machine
    undo: "list[Callable[[], None]]" = field(default_factory=list)

    def order(self, rank: int, what: str) -> None:
        part = self.chaos / f".{rank}"
        part.write_text(what)
        part.rename(self.chaos / f"rank-{rank}")

    def later(self, seconds: float, do: "Callable[[], Any]") -> None:
        timer = threading.Timer(seconds, do)
        timer.start()
        self.undo.append(timer.join)

    def host(self, number: int) -> Any:
        assert self.bed is not None, "this fault takes hosts"
        return self.bed.hosts[number]


@dataclass(frozen=True)
class Chaos:
    """A fault, and the run that it befalls."""

    name: str
    inject: "Callable[[Scene, Run, RunState], None]"
    causes: frozenset[str] = frozenset()  # none: the run must go on as it is
    rank: Optional[int] = None
    host: Optional[str] = None
    hosts: int = 0  # 0: this machine
    spares: int = 0
    on_host_lost: str = "wait"
    restarts: bool = True  # False: it must not be tried again
    checkpoints_lost: int = 0  # damaged by the fault itself
    at_start: bool = False  # before the first step
    hang_after_s: float = 4.0  # longer than ranks are kept waiting without being lost
    environment: "dict[str, str]" = field(default_factory=dict)


def order(what: str, rank: int = 1) -> "Callable[[Scene, Run, RunState], None]":
    return lambda scene, run, state: scene.order(rank, what)


def struck(number: int, rank: int = 1) -> "Callable[[Scene, Run, RunState], None]":
    return lambda scene, run, state: _nothing(drills.strike_rank(run, rank, number))


def _nothing(_: object) -> None:
    return None


def supervisor(number: int) -> "Callable[[Scene, Run, RunState], None]":
    return lambda scene, run, state: drills.strike_supervisor(run, state.ranks[1].host, number)


def controller(scene: Scene, run: Run, state: RunState) -> None:
    drills.strike_controller(run, signal.SIGKILL)


def cut_for(seconds: float, number: int = 1) -> "Callable[[Scene, Run, RunState], None]":
    def inject(scene: Scene, run: Run, state: RunState) -> None:
        bed, host = scene.bed, scene.host(number)
        assert bed is not None
        bed.cut(host)
        scene.later(seconds, lambda: bed.mend(host))

    return inject


def cut_for_good(scene: Scene, run: Run, state: RunState) -> None:
    assert scene.bed is not None
    scene.bed.cut(scene.host(1))


def cut_controller(scene: Scene, run: Run, state: RunState) -> None:
    """Take this machine's address away from the network that joins the hosts, which go on among themselves."""
    bed = scene.bed
    assert bed is not None
    device, address = f"tb{bed.number}", f"10.{bed.number}.255.254/16"
    subprocess.run(["ip", "addr", "del", address, "dev", device], check=True)
    scene.later(5, lambda: subprocess.run(["ip", "addr", "add", address, "dev", device], check=True))


def restart_sshd(scene: Scene, run: Run, state: RunState) -> None:
    bed, host = scene.bed, scene.host(1)
    assert bed is not None
    bed.stop_sshd(host)
    bed.exec(host, ["pkill", "-x", "sshd-session"], check=False)
    bed.exec(host, ["pkill", "-x", "sshd"], check=False)
    bed.start_sshd(host)


def fill_disk(scene: Scene, run: Run, state: RunState) -> None:
    """Leave no room for the next checkpoint, in a folder of the ranks that is a small disk of its own."""
    ballast = scene.folder / "runs/ballast"
    subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=4k"], capture_output=True)
    scene.later(6, ballast.unlink)  # only then can anything be told at all: it is the disk of the run folder


def spoil(damage: "Callable[[Path], None]") -> "Callable[[Scene, Run, RunState], None]":
    def inject(scene: Scene, run: Run, state: RunState) -> None:
        drills.strike_rank(run, 0, signal.SIGSTOP)  # or it would write another one meanwhile
        newest = max(run.run_dir.root.glob("attempts/1/*/toy-1_*.ckpt"), key=lambda path: int(path.stem[6:]))
        damage(newest)
        drills.strike_rank(run, 0, signal.SIGKILL)

    return inject


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\0\xff\0")


def jump_clock(scene: Scene, run: Run, state: RunState) -> None:
    """Move the clock of all processes of the run on an hour, and then end a rank: times of both kinds must be borne."""
    (scene.chaos / "clock").write_text("3600")
    time.sleep(1.5)
    drills.strike_rank(run, 1, signal.SIGKILL)


def twice(scene: Scene, run: Run, state: RunState) -> None:
    """End rank 1, and rank 0 as soon as the next attempt has begun."""
    drills.strike_rank(run, 1, signal.SIGKILL)

    def again() -> None:
        over = time.monotonic() + 30
        while time.monotonic() < over:
            if (run.run_dir.root / "attempts/2/processes/rank-0.started.json").exists():
                scene.order(0, "signal SIGKILL")
                return
            time.sleep(0.02)

    scene.later(0, again)


def take_port(scene: Scene, run: Run, state: RunState) -> None:
    """End a rank, and take the ports that all met at."""
    variables = run.plan.ranks[0].process.environment
    drills.strike_rank(run, 1, signal.SIGKILL)

    def take(port: int) -> None:
        over = time.monotonic() + 10
        while time.monotonic() < over:
            try:
                server = socket.create_server(("0.0.0.0", port))
            except OSError:
                time.sleep(0.02)
                continue
            scene.undo.append(server.close)
            return

    for name in ("MASTER_PORT", "MS_SCHED_PORT"):
        scene.later(0, lambda port=int(variables[name]): take(port))


ALL = (
    Chaos("rank killed by KILL", struck(signal.SIGKILL), frozenset({"signal", "out_of_memory"}), 1),
    Chaos("rank killed by SEGV", struck(signal.SIGSEGV), frozenset({"signal"}), 1),
    Chaos("rank exits 1 by exception", order("raise"), frozenset({"exception"}), 1),
    Chaos("rank exits 0 too early", order("exit 0"), frozenset({"ended_early"}), 1),
    Chaos("rank stopped", struck(signal.SIGSTOP), HANGS, 1),
    Chaos("rank in an endless loop", order("loop"), HANGS, 1),
    Chaos("rank out of memory", order("memory"), frozenset({"out_of_memory"}), 1),
    Chaos("ImportError at start", order(""), frozenset({"import_error"}), 1, restarts=False, at_start=True,
          environment={"BROKEN": "1"}),
    Chaos("hang in the collective", order("never join"), HANGS, 1),
    Chaos("NaN loss", order("nan"), frozenset({"nan_loss"}), 1, restarts=False),
    Chaos("supervisor killed", supervisor(signal.SIGKILL)),
    Chaos("supervisor stopped", supervisor(signal.SIGSTOP)),
    Chaos("controller killed", controller),
    Chaos("controller's machine cut off", cut_controller, hosts=2, hang_after_s=30),
    Chaos("host cut off for 5 s", cut_for(5), hosts=2, hang_after_s=30),
    Chaos("host cut off for 60 s", cut_for(60), hosts=2, hang_after_s=120),
    Chaos("host cut off for good, a spare", cut_for_good, frozenset({"host_lost"}), host="node2", hosts=2, spares=1,
          on_host_lost="replace"),
    Chaos("host cut off for good, no spare", cut_for_good, frozenset({"host_lost"}), host="node2", hosts=3,
          on_host_lost="shrink"),
    Chaos("sshd restarted", restart_sshd, hosts=2),
    Chaos("disk full at a checkpoint", fill_disk, frozenset({"disk_full"}), 0, restarts=False),
    Chaos("checkpoint cut in half", spoil(cut_in_half), frozenset({"signal", "out_of_memory"}), 0, checkpoints_lost=1),
    Chaos("checkpoint with flipped bytes", spoil(flip), frozenset({"signal", "out_of_memory"}), 0, checkpoints_lost=1),
    Chaos("clock jumps by an hour", jump_clock, frozenset({"signal", "out_of_memory"}), 1),
    Chaos("a second rank dies at the restart", twice, frozenset({"signal", "out_of_memory"}), 1),
    Chaos("the scheduler's port is taken at the restart", take_port, frozenset({"signal", "out_of_memory"}), 1),
)  # fmt: skip
