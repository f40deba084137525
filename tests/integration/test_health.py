"""Devices that get worse while a run uses them: told of at once, believed when a rank fails, and left behind."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.conftest import Cli, wait_for
from tests.integration.far import Far, far_on, give_devices
from tests.testbed.bed import Testbed

SERIES = "/srv/work/r/attempts/1/health.jsonl"


@pytest.fixture
def three(cli: Cli, new_testbed: "Callable[[int], Testbed]") -> "Iterator[Far]":
    """Three hosts with four devices each, the last of them a spare."""
    bed = new_testbed(3)
    for host in bed.hosts:
        give_devices(bed, host, 4)
    yield from far_on(cli, bed)


def launch(far: Far, **restart: Any) -> None:
    document = {
        "name": "sleeper",
        "command": [sys.executable, "-S", "-c", "import time; time.sleep(300)"],
        "health_every": 1,
        "restart": {"backoff_s": 0.1, **restart},
    }
    (far.cli.folder / "sleeper.yaml").write_text(yaml.safe_dump(document))
    file = far.hosts(3, node3={"spare": True})
    far.cli("launch", "sleeper.yaml", "--hosts", file, "--devices", "4", "--name", "r", "--detach")


def told(far: Far) -> "dict[str, set[Any]]":
    """Return what is told to have become worse, by host: what, device, rank."""
    found: "dict[str, set[Any]]" = {}
    for event in far.events():
        if event["kind"] == "health":
            data = event["data"]
            found.setdefault(event["host"], set()).add((data["what"], data["device"], event.get("rank")))
    return found


def looked(far: Far, host: int) -> bool:
    return far.bed.exec(far.bed.hosts[host], ["test", "-s", SERIES], check=False).returncode == 0


@pytest.mark.timeout(120)
def test_what_gets_worse_is_told_of_its_device_and_a_run_leaves_the_host_of_one_that_fails(three: Far) -> None:
    bed = three.bed
    launch(three, on_host_lost="replace")
    wait_for(lambda: looked(three, 0) and looked(three, 1))

    bed.npu_state(bed.hosts[0], "hot 0 91", "ecc 1 2 40", "flaps 2 1")
    worse = {("temperature", 0, 0), ("ecc", 1, 1), ("corrected_ecc", 1, 1), ("link_flaps", 2, 2)}
    wait_for(lambda: told(three).get("node1") == worse)
    bed.npu_state(bed.hosts[0], "hot 0 91", "ecc 1 2 40", "flaps 2 1", "health 3 Alarm 8C03A000")
    wait_for(lambda: told(three).get("node1") == {*worse, ("health", 3, 3)})
    said = three.cli("status", "r").stdout
    assert "warning: device 0 of node1 (rank 0): 91 °C, was 37 °C\n" in said
    assert "FAULT: device 1 of node1 (rank 1): 2 memory errors (ECC) that could not be corrected, 0 when" in said
    assert "FAULT: device 3 of node1 (rank 3): health is Alarm, was OK (8C03A000)\n" in said
    state = three.cli.status("r")
    assert (state["outcome"], {one["host"] for one in state["health"]}) == ("running", {"node1"})

    three.cli("restart", "r", "--rank", "3")
    wait_for(lambda: any(event["kind"] == "attempt_started" for event in three.events()))
    (ended,) = (event["data"] for event in three.events() if event["kind"] == "attempt_ended")
    assert (ended["cause"], ended["host"], ended["rank"], ended["avoid"]) == ("device", "node1", 3, "node1")
    assert ended["reason"] == "restart 1 of 3, without node1"
    wait_for(lambda: three.cli.status("r")["ranks"][0]["phase"] == "running")
    assert {rank["host"] for rank in three.cli.status("r")["ranks"]} == {"node2", "node3"}
    three.cli("stop", "r", "--grace", "0")
    assert set(told(three)) == {"node1"}
    three.cli("collect", "r", "-o", "all")
    (series,) = (three.cli.folder / "all").rglob("node1/**/health.jsonl")
    samples = [json.loads(line) for line in series.read_text().splitlines()]
    assert {sample["devices"]["0"]["temp_c"] for sample in samples} == {37, 91}


@pytest.mark.timeout(120)
def test_a_device_that_drops_off_the_bus_is_missed_and_a_host_that_is_not_to_be_left_is_used_again(three: Far) -> None:
    bed = three.bed
    launch(three, on_host_lost="wait")
    wait_for(lambda: looked(three, 1))
    bed.npu_state(bed.hosts[1], "missing 2")
    three.cli("restart", "r", "--rank", "6")
    wait_for(lambda: any(event["kind"] == "attempt_started" for event in three.events()))
    (ended,) = (event["data"] for event in three.events() if event["kind"] == "attempt_ended")
    assert (ended["cause"], ended["rank"], ended["avoid"]) == ("device", 6, None)
    assert ended["sentence"].startswith("device 2 of node2: npu-smi does not show it any more; rank 6, SIGKILL")
    assert ended["reason"] == "restart 1 of 3, on node2 again: on_host_lost is `wait`"
    three.cli("stop", "r", "--grace", "0")


@pytest.mark.timeout(120)
def test_a_driver_that_is_stuck_keeps_no_run_from_its_end_and_leaves_nothing(three: Far) -> None:
    bed = three.bed
    launch(three)
    wait_for(lambda: looked(three, 0))
    bed.npu_state(bed.hosts[0], "hang")
    wait_for(
        lambda: any("npu-smi" in line for line in bed.exec(bed.hosts[0], ["ps", "-eo", "args"]).stdout.split("\n"))
    )
    three.cli("restart", "r", "--rank", "0")
    wait_for(lambda: any(event["kind"] == "attempt_ended" for event in three.events()))
    three.cli("stop", "r", "--grace", "0")
