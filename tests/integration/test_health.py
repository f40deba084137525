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
from tests.testbed.bed import Host, Testbed


@pytest.fixture
def three(cli: Cli, new_testbed: "Callable[[int], Testbed]") -> "Iterator[Far]":
    """Three hosts with four devices each, the last of them a spare."""
    bed = new_testbed(3)
    for host in bed.hosts:
        give_devices(bed, host, 4)
    yield from far_on(cli, bed)


def launch(far: Far) -> None:
    document = {
        "name": "sleeper",
        "command": [sys.executable, "-S", "-c", "import time; time.sleep(300)"],
        "health_every": 1,
        "restart": {"backoff_s": 0.1, "on_host_lost": "replace"},
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


def next_attempt(far: Far, attempt: int) -> "tuple[dict[str, Any], set[str]]":
    """Return why the attempt before *attempt* ended, and the hosts of this one, once all have looked."""
    wait_for(lambda: len(of_kind(far, "attempt_started")) == attempt - 1)
    hosts = {host for _, host in of_kind(far, "attempt_started")[-1]["ranks"]}
    wait_for(lambda: all(looked(far, host, attempt) for host in far.bed.hosts if host.name in hosts))
    return of_kind(far, "attempt_ended")[-1], hosts


def of_kind(far: Far, kind: str) -> "list[dict[str, Any]]":
    return [event["data"] for event in far.events() if event["kind"] == kind]


def looked(far: Far, host: Host, attempt: int) -> bool:
    return (
        far.bed.exec(host, ["test", "-s", f"/srv/work/r/attempts/{attempt}/health.jsonl"], check=False).returncode == 0
    )


@pytest.mark.timeout(120)
def test_what_gets_worse_is_told_of_its_device_and_a_run_leaves_the_host_of_one_that_failed(three: Far) -> None:
    bed = three.bed
    first, second, _ = bed.hosts
    launch(three)
    wait_for(lambda: looked(three, first, 1) and looked(three, second, 1))

    bed.npu_state(first, "hot 0 91", "ecc 1 2 40", "flaps 2 1", "health 3 Alarm 8C03A000")
    worse = {("temperature", 0, 0), ("ecc", 1, 1), ("corrected_ecc", 1, 1), ("link_flaps", 2, 2), ("health", 3, 3)}
    wait_for(lambda: told(three) == {"node1": worse})
    said = three.cli("status", "r").stdout
    assert said.splitlines()[0] == "r: running"
    assert "warning: device 0 of node1 (rank 0): 91 °C, was 37 °C\n" in said
    assert "FAULT: device 1 of node1 (rank 1): 2 memory errors (ECC) that could not be corrected, 0 when" in said
    assert "FAULT: device 3 of node1 (rank 3): health is Alarm, was OK (8C03A000)\n" in said

    three.cli("restart", "r", "--rank", "3")
    why, hosts = next_attempt(three, 2)
    assert (why["cause"], why["host"], why["rank"], why["avoid"]) == ("device", "node1", 3, "node1")
    assert (why["reason"], hosts) == ("restart 1 of 3, without node1", {"node2", "node3"})

    bed.npu_state(second, "missing 2")
    three.cli("restart", "r", "--rank", "6")
    why, hosts = next_attempt(three, 3)
    assert why["sentence"].startswith("device 2 of node2: npu-smi does not show it any more; rank 6, SIGKILL")
    assert (why["avoid"], why["reason"]) == (None, "restart 2 of 3, on node2 again: there is no other for it")
    assert hosts == {"node2", "node3"}
    three.cli("stop", "r", "--grace", "0")

    three.cli("collect", "r", "-o", "all")
    series = next((three.cli.folder / "all").glob("attempts/1/hosts/node1/health.jsonl"))
    samples = [json.loads(line) for line in series.read_text().splitlines()]
    assert {sample["devices"]["0"]["temp_c"] for sample in samples} == {37, 91}
