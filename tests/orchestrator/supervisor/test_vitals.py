"""The child that asks the devices, whatever the driver does, and what is told of its samples."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from orchestrator.supervisor import vitals
from orchestrator.supervisor.hostplan import HostPlan, ProcessPlan
from orchestrator.supervisor.journal import Journal
from orchestrator.supervisor.rundir import RunDir
from orchestrator.supervisor.vitals import Vitals
from tests.conftest import wait_for

TABLE = """\
| npu-smi 25.2.3   Version: 25.2.3   |
| NPU   Name | Health | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip       | Bus-Id | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
| 0     910B3 | {} | 91.2        37                0    / 0             |
| 0           | 0000:C1:00.0 | 0     0    / 0          3391 / 65536         |
"""


def tool(folder: Path, name: str, script: str) -> None:
    """Put a tool of this name into *folder*, which is in PATH."""
    (folder / f"{name}.new").write_text(f"#!/bin/sh\n{script}\n")
    (folder / f"{name}.new").chmod(0o755)
    os.replace(folder / f"{name}.new", folder / name)


def says(folder: Path, health: str) -> None:
    (folder / "table").write_text(TABLE.format(health))
    tool(folder, "npu-smi", f'[ "$2" = -t ] || cat {folder}/table')


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[Path]":
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    tool(folder, "hccn_tool", "echo hccn_tool is busy, please try again.; exit 1")
    says(folder, "OK")
    yield folder
    wait_for(lambda: not any(str(folder) in command for command in commands()), timeout_s=10)


def commands() -> "Iterator[str]":
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            yield Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended


def watched(folder: Path, device_id: Optional[int] = 0, **changes: Any) -> Vitals:
    """Return who watches over rank 5 on a device."""
    process = ProcessPlan(5, ("true",), {}, "train", "train.log", device_id=device_id)
    plan = HostPlan("r-1", "node1", (process,), 1.0, **{"health_every_s": 0.01, **changes})
    run_dir = RunDir(folder)
    return Vitals(run_dir, plan, Journal(run_dir.journal, "node1"))


def told(folder: Path) -> "list[tuple[Any, ...]]":
    events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [(one["kind"], one.get("rank"), one["data"]["what"], one["data"]["now"]) for one in events]


def samples(folder: Path) -> int:
    path = folder / "health.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def look(watching: Vitals, folder: Path, more: int = 1) -> None:
    """Tick until there are *more* samples."""
    wanted = samples(folder) + more

    def ticked() -> bool:
        watching.tick()
        return samples(folder) >= wanted

    wait_for(ticked)


def test_an_alarm_is_told_once_also_by_a_supervisor_that_takes_over(tools: Path, tmp_path: Path) -> None:
    watching = watched(tmp_path)
    look(watching, tmp_path)
    says(tools, "Alarm")
    look(watching, tmp_path, 3)
    watching.close()
    assert told(tmp_path) == [("health", 5, "health", "Alarm")]
    watching = watched(tmp_path)
    look(watching, tmp_path, 2)
    says(tools, "Critical")
    look(watching, tmp_path, 3)
    watching.close()
    assert told(tmp_path) == [("health", 5, "health", "Alarm"), ("health", 5, "health", "Critical")]


def test_a_driver_that_is_stuck_holds_up_nobody_and_leaves_nothing_running(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals, "_LAST_LOOK_S", 0.5)
    tool(tools, "npu-smi", f"touch {tmp_path}/asked; while :; do sleep 1; done")
    watching = watched(tmp_path)
    wait_for(lambda: watching.tick() or (tmp_path / "asked").exists())
    began = time.monotonic()
    watching.rank_failed(5)
    assert watching.is_looking()
    wait_for(lambda: not watching.is_looking())
    assert time.monotonic() - began < 5
    watching.close()


def test_a_child_that_takes_too_long_is_ended_and_the_driver_is_told_to_be_stuck(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals, "_LOOK_S", 1.0)
    watching = watched(tmp_path)
    look(watching, tmp_path)
    tool(tools, "npu-smi", "while :; do sleep 1; done")
    wait_for(lambda: watching.tick() or told(tmp_path))
    watching.close()
    assert told(tmp_path) == [("health", None, "npu_smi", "npu-smi gives no answer in 1 s")]


def test_nothing_is_asked_where_nobody_wants_it_or_nothing_is_to_be_asked(tools: Path, tmp_path: Path) -> None:
    tool(tools, "npu-smi", f"touch {tmp_path}/asked")
    off = watched(tmp_path, health_every_s=0.0)
    without = watched(tmp_path, device_id=None)
    for _ in range(3):
        off.tick()
        look(without, tmp_path)
    assert not (tmp_path / "asked").exists()
    assert set(json.loads((tmp_path / "health.jsonl").read_text().splitlines()[0])) == {"at", "mono", "memory"}
