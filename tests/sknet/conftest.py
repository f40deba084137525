"""Sets and processes that several tests share."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from sknet import sample

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """130 training and 70 test pictures."""
    folder = tmp_path_factory.mktemp("dataset")
    sample.make(folder, 130, 70)
    return folder


@pytest.fixture(autouse=True)
def own_mode() -> Iterator[None]:
    """Give the next test MindSpore's own mode again, whatever this one chose."""
    yield
    if mindspore := sys.modules.get("mindspore"):
        mindspore.set_context(mode=mindspore.PYNATIVE_MODE)


@pytest.fixture
def graph_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile, as training does, in a folder that the compiler may write to when it fails."""
    import mindspore

    monkeypatch.chdir(tmp_path)
    mindspore.set_context(mode=mindspore.GRAPH_MODE)


@pytest.fixture
def run_module(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs `python -m MODULE ARGUMENTS...` in an empty folder, to its end."""

    def run(module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=tmp_path,
            timeout=300,
            text=True,
            capture_output=True,
            env={**plain_environment(), **variables},
            check=False,
        )

    return run


@pytest.fixture
def alone() -> dict[str, str]:
    """The environment of a process that is no rank of several."""
    return plain_environment()


def plain_environment() -> dict[str, str]:
    """Return this environment without what makes a process one rank of several."""
    mine = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MS_", "RANK", "DEVICE_", "ASCENDRUN_"))
    }
    return {**mine, "PYTHONPATH": str(ROOT), "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Ended:
    """How one process ended and what it wrote."""

    code: int
    output: str
    errors: str


@pytest.fixture
def run_ranks(tmp_path: Path) -> Callable[..., list[Ended]]:
    """Return a function that runs a Python command as two ranks of MindSpore's dynamic cluster, to their end.

    Rank N gets ASCENDRUN_PROGRESS=progressN.jsonl in the test's folder. *meanwhile* is called with the processes, the
    ranks before the scheduler.
    """

    def run(
        *command: str,
        seconds: float = 400.0,
        meanwhile: Callable[[list[subprocess.Popen[str]]], None] = lambda processes: None,
        **variables: str,
    ) -> list[Ended]:
        cluster = {
            **plain_environment(),
            "MS_WORKER_NUM": "2",
            "MS_SCHED_HOST": "127.0.0.1",
            "MS_SCHED_PORT": str(free_port()),
            "RANK_SIZE": "2",
            **variables,
        }
        own = [
            {
                "MS_ROLE": "MS_WORKER",
                "MS_NODE_ID": str(rank),
                "RANK_ID": str(rank),
                "DEVICE_ID": str(rank),
                "ASCENDRUN_PROGRESS": str(tmp_path / f"progress{rank}.jsonl"),
            }
            for rank in range(2)
        ]
        scheduler = ["-c", "from mindspore.communication import init; init()"]
        processes = [
            subprocess.Popen(
                [sys.executable, *words],
                cwd=tmp_path,
                env={**cluster, **extra},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for words, extra in [(command, own[0]), (command, own[1]), (scheduler, {"MS_ROLE": "MS_SCHED"})]
        ]
        try:
            with ThreadPoolExecutor(len(processes)) as readers:  # so that no full pipe blocks a rank
                ends = readers.map(lambda process: process.communicate(timeout=seconds), processes)
                meanwhile(processes)
                written = list(ends)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return [Ended(process.returncode, *text) for process, text in zip(processes, written, strict=True)]

    return run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
