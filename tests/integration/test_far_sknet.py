"""SKNet under `ascendrun launch --hosts`: real MindSpore, real collectives from host to host."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import wait_for
from tests.integration.far import Far, nothing_left, whole

if importlib.util.find_spec("mindspore") is None:
    pytest.skip("MindSpore is not installed for this Python", allow_module_level=True)

# The smallest net of the job; 64 pictures are two steps of two ranks.
WORDS = ["sknet50-cpu", "--set", "net=sknet_tiny", "--set", "epoch_size=1", "--set", "warmup_epochs=0"]


def losses(run_dir: Path, rank: int) -> "list[str]":
    log = (run_dir / f"train_parallel{rank}/train.log").read_text()
    return [line for line in log.splitlines() if line.startswith("epoch:")]


@pytest.mark.timeout(300)
def test_sknet_trains_on_two_hosts_as_on_one_and_is_collected_here(far: Far) -> None:
    words = ["-m", "sknet.sample", "data", "--train", "64", "--test", "20"]  # on every host under the same path
    for host in far.bed.hosts[:2]:
        far.bed.exec(host, ["env", "--chdir=/tmp", sys.executable, *words])
    subprocess.run([sys.executable, *words], cwd=far.cli.folder, check=True, capture_output=True)

    far.cli(
        "launch", *WORDS, "--hosts", far.hosts(2), "--devices", "1", "--dataset", "/tmp/data", "--name", "r", "--detach"
    )
    wait_for(lambda: any(event["kind"] == "progress" for event in far.events()), 120)
    assert {rank["host"] for rank in far.cli.status("r")["ranks"]} == {"node1", "node2"}
    assert "r: succeeded" in far.cli("attach", "r", timeout=120).stdout
    whole(far.events())
    assert nothing_left(far.bed, far.before) == []

    assert far.cli("collect", "r").returncode == 0
    assert list((far.cli.folder / "collected/r/train_parallel0/ckpt").glob("*.ckpt"))

    far.cli("launch", *WORDS, "--devices", "2", "--dataset", "data", "--name", "here", timeout=200)
    for rank in range(2):
        assert len(losses(far.cli.run_dir("here"), rank)) == 2
        assert losses(far.cli.run_dir("r"), rank) == losses(far.cli.run_dir("here"), rank), "digit for digit"


@pytest.mark.timeout(120)
def test_sknet_on_two_hosts_stops_when_it_is_told_to(far: Far) -> None:
    far.bed.exec(far.bed.hosts[0], [sys.executable, "-m", "sknet.sample", "/srv/shared/data"])
    words = ["--dataset", "/srv/shared/data", "--devices", "1", "--name", "r", "--detach"]
    far.cli("launch", *WORDS, "--hosts", far.hosts(2), *words)
    wait_for(lambda: any(event["kind"] == "phase" for event in far.events()), 60)
    assert far.cli("stop", "r", timeout=60).stdout == "r: stopped by ascendrun stop\n"
