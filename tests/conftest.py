"""Shared by all tests: a home of its own for each, the real command, and an audit of what is left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import HealthCheck, settings

from tests.testbed.fixture import _healed, new_testbed, testbed  # noqa: F401

# A shell starts its background jobs deaf to Ctrl-C, and so would be every `ascendrun` that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples on every machine and in every run; nobody's clock decides over a test.
settings.register_profile(
    "ascendrun", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ascendrun")

ASCENDRUN = str(Path(sys.executable).with_name("ascendrun"))
SHARED = Path(__file__).resolve().parents[2] / "shared"
REQUIRE_ALL = "ASCENDRUN_REQUIRE_ALL_TESTS"  # set where nothing may be missing: a skip is a failure there


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = (yield).get_result()
    if report.skipped and os.environ.get(REQUIRE_ALL) and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{REQUIRE_ALL} is set, and this test would be skipped: {report.longrepr}"


def pytest_collection_modifyitems(items: "list[pytest.Item]") -> None:
    """Begin with the longest tests: beside them the others are done, and nobody waits for them at the end."""
    items.sort(key=lambda item: not item.get_closest_marker("long"))


def processes_below(folder: Path) -> "dict[int, str]":
    """Return the live processes, by pid, that belong to a run in *folder*: by environment or command line."""
    found = {}
    needle = os.fsencode(str(folder))
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            environment = Path(f"/proc/{name}/environ").read_bytes()
            command = Path(f"/proc/{name}/cmdline").read_bytes()
            state = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except OSError:
            continue
        ours = needle in environment and (b"ASCENDRUN_RUN_ID=" in environment or needle in command)
        supervisor = b"ascendrun: " in command and needle in environment
        if (ours or supervisor) and state not in "ZX":
            found[int(name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def wait_for(what: "Callable[[], Any]", timeout_s: float = 30.0) -> Any:
    """Return the first true value of *what*; fail when the time is over."""
    deadline = time.monotonic() + timeout_s
    while not (value := what()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain for {what}"
        time.sleep(0.02)
    return value


class Cli:
    """Runs the real `ascendrun` as a user would, in a folder and with a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ASCENDRUN_")},
            "ASCENDRUN_HOME": str(folder / "home"),
            "XDG_CACHE_HOME": os.environ.get("ASCENDRUN_TEST_CACHE", str(folder / "cache")),
        }

    def __call__(self, *arguments: str, code: Optional[int] = 0, **options: Any) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [ASCENDRUN, *arguments],
            cwd=self.folder,
            env=self.environment,
            text=True,
            capture_output=True,
            timeout=options.pop("timeout", 240),
            **options,
        )
        assert code is None or done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [ASCENDRUN, *arguments],
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )

    def status(self, run: str) -> "dict[str, Any]":
        state: "dict[str, Any]" = json.loads(self("status", run, "--json").stdout)
        return state

    def events(self, run: str) -> "list[dict[str, Any]]":
        return self.events_in(self.run_dir(run))

    @staticmethod
    def events_in(folder: Path) -> "list[dict[str, Any]]":
        """Return the events in the journal of the run in *folder*; torn lines are left out."""
        lines = (folder / "journal.jsonl").read_text().splitlines()
        return [event for line in lines if line.endswith("}") and "seq" in (event := json.loads(line))]

    def run_dir(self, run: str) -> Path:
        return self.folder / "runs" / run

    def supervisor_pid(self, run: str) -> int:
        return int(json.loads((self.run_dir(run) / "supervisor.lock").read_text())[0][0])

    def rank_pids(self, run: str, count: int) -> "list[int]":
        """Return the pids of ranks 0 to *count* - 1, once all are started."""

        def look() -> "Optional[list[int]]":
            try:
                return [
                    json.loads((self.run_dir(run) / f"processes/rank-{rank}.started.json").read_text())["pid"]
                    for rank in range(count)
                ]
            except (OSError, ValueError):
                return None

        pids: "list[int]" = wait_for(look)
        return pids


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """The command line; afterwards nothing of the test's runs may be left."""
    cli = Cli(tmp_path)
    yield cli
    left = processes_below(tmp_path)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    assert not left, f"left running: {left}"


@pytest.fixture
def program(tmp_path: Path) -> "Callable[..., list[str]]":
    """Write a Python program and return the words that run it."""

    def write(source: str, name: str = "program.py") -> "list[str]":
        path = tmp_path / name
        path.write_text(source)
        return [sys.executable, str(path)]

    return write
