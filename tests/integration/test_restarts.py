"""Runs that fail and go on: on this machine and on test hosts."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Cli, wait_for
from tests.integration.far import Far

TRAINER = Path(__file__).with_name("trainer.py").read_text()


def job(folder: Path, *, restart: "dict[str, Any]", **environment: str) -> str:
    """Write the job of a trainer that is to be restarted; return its name."""
    (folder / "trainer.py").write_text(TRAINER)
    document = {
        "name": "toy",
        "command": [sys.executable, "-S", "trainer.py"],
        "working_directory": str(folder),
        "environment": environment,
        "restart": {"backoff_s": 0.1, **restart},
    }
    (folder / "toy.yaml").write_text(yaml.safe_dump(document))
    return "toy.yaml"


def starts(events: "list[dict[str, Any]]") -> "list[Any]":
    """Return the checkpoint that each attempt but the first went on from."""
    return [event["data"].get("resume") for event in events if event["kind"] == "attempt_started"]


def ends(events: "list[dict[str, Any]]") -> "list[dict[str, Any]]":
    return [event["data"] for event in events if event["kind"] == "attempt_ended"]


@pytest.mark.parametrize("how", ["KILL", "SEGV", "1"])
def test_a_rank_that_dies_costs_the_steps_since_the_newest_checkpoint_and_no_more(cli: Cli, how: str) -> None:
    name = job(cli.folder, restart={}, DIE=f"1:{how}:1")
    cli("launch", name, "--devices", "2", "--name", "r", code=0)
    events = cli.events("r")
    assert [Path(path).name for path in starts(events)] == ["toy-1_10.ckpt"]
    assert [(one["rank"], one["restart"]) for one in ends(events)] == [(1, True)]
    assert "attempt 2 goes on from step 10" in cli("logs", "r", "--rank", "1").stdout


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(cli: Cli, damage: str) -> None:
    name = job(cli.folder, restart={}, DIE="1:KILL:1", SPOIL=damage)
    cli("launch", name, "--devices", "2", "--name", "r", code=0)
    assert [Path(path).name for path in starts(cli.events("r"))] == ["toy-1_5.ckpt"]


def test_a_run_that_brings_nothing_new_is_given_up(cli: Cli) -> None:
    name = job(cli.folder, restart={"max_restarts": 9, "without_checkpoint": 2}, DIE="0:3:9", STEPS="30")
    (cli.folder / "trainer.py").write_text("import sys; sys.exit(3)")
    cli("launch", name, "--devices", "2", "--name", "r", code=1)
    ended = ends(cli.events("r"))
    assert [one["restart"] for one in ended] == [True, False]
    assert "no new checkpoint" in ended[-1]["reason"]


def test_restarts_are_counted(cli: Cli) -> None:
    name = job(cli.folder, restart={"max_restarts": 2}, DIE="0:KILL:9", STEPS="60")
    cli("launch", name, "--devices", "2", "--name", "r", code=1)
    events = cli.events("r")
    assert [Path(path).name for path in starts(events)] == ["toy-1_10.ckpt", "toy-1_10.ckpt"] or len(
        starts(events)
    ) == 2
    assert ends(events)[-1]["reason"] == "all 2 restarts are used up"


def test_a_run_goes_on_by_hand_from_another_that_failed(cli: Cli) -> None:
    (cli.folder / "trainer.py").write_text(TRAINER)
    program = ["--", sys.executable, "-S", "trainer.py"]
    cli.environment["DIE"] = "1:KILL:1"
    cli("launch", "--devices", "2", "--name", "first", *program, code=1)
    del cli.environment["DIE"]
    cli("launch", "--devices", "2", "--name", "second", "--resume", "first", *program, code=0)
    assert "attempt 1 goes on from step 10" in cli("logs", "second", "--rank", "1").stdout


def test_a_stop_between_two_attempts_ends_the_run(cli: Cli) -> None:
    name = job(cli.folder, restart={"backoff_s": 60}, DIE="1:KILL:9")
    cli("launch", name, "--devices", "2", "--name", "r", "--detach", code=0)
    wait_for(lambda: bool(ends(cli.events("r"))))
    cli("stop", "r")
    state = cli.status("r")
    assert state["outcome"] == "failed"
    assert not starts(cli.events("r"))


def test_a_restart_by_hand_goes_on_from_the_newest_checkpoint(cli: Cli) -> None:
    name = job(cli.folder, restart={"max_restarts": 1}, STEPS="150")
    cli("launch", name, "--devices", "2", "--name", "r", "--detach")
    wait_for(lambda: any(event["kind"] == "checkpoint" for event in cli.events("r")))
    cli("restart", "r")
    wait_for(lambda: bool(starts(cli.events("r"))))
    cli("restart", "r", "--rank", "1")
    cli("attach", "r", timeout=60)
    assert [(one["cause"], one["rank"]) for one in ends(cli.events("r"))] == [("asked", None), ("signal", 1)]
    assert len(starts(cli.events("r"))) == 2


def test_a_run_that_nobody_would_start_again_is_not_restarted(cli: Cli) -> None:
    (cli.folder / "trainer.py").write_text(TRAINER)
    cli("launch", "--devices", "1", "--name", "r", "--", sys.executable, "-S", "trainer.py")
    assert "--resume r" in cli("restart", "r", code=2).stderr


# ── on far hosts ───────────────────────────────────────────────────────────────────────────────────────────


def launch(far: Far, *, restart: "dict[str, Any]", hosts: int = 2, spares: int = 0, **environment: str) -> None:
    name = job(far.cli.folder, restart=restart, **environment)
    spare = {f"node{hosts + 1 + number}": {"spare": True} for number in range(spares)}
    file = far.hosts(hosts + spares, **spare)
    far.cli("launch", name, "--hosts", file, "--devices", "1", "--name", "r", "--detach", code=0)


def told_of_steps(far: Far, step: int) -> bool:
    return any(event["kind"] == "checkpoint" and event["data"]["step"] >= step for event in far.events())


def test_a_spare_takes_the_place_of_a_lost_host_with_the_checkpoint_of_its_rank(far: Far) -> None:
    """The host that wrote the checkpoints is the one that is lost: their copies go on."""
    restart = {"on_host_lost": "replace", "host_lost_after_s": 2}
    launch(far, restart=restart, hosts=2, spares=1, STEPS="100", STEP_S="0.1")
    wait_for(lambda: told_of_steps(far, 20))
    far.bed.crash(far.bed.hosts[0])
    far.cli("attach", "r", timeout=60)
    events = far.events()
    assert [event["data"]["host"] for event in events if event["kind"] == "host_lost"] == ["node1"]
    assert [[host for _, host in event["data"]["ranks"]] for event in events if event["kind"] == "attempt_started"] == [
        ["node3", "node2"]
    ]
    (path,) = starts(events)
    assert int(Path(path).stem.rpartition("_")[2]) >= 15


def test_a_run_shrinks_by_a_lost_host_and_by_those_that_cannot_share_its_batch(far: Far) -> None:
    """Two ranks would be left, and 9 pictures a step."""
    restart = {"on_host_lost": "shrink", "host_lost_after_s": 2}
    launch(far, restart=restart, hosts=3, STEPS="100", STEP_S="0.1", GLOBAL_BATCH="9")
    wait_for(lambda: told_of_steps(far, 10))
    far.bed.crash(far.bed.hosts[0])
    far.cli("attach", "r", timeout=60)
    assert [rank["host"] for rank in far.cli.status("r")["ranks"]] == ["node2"]


def test_a_run_waits_for_a_host_that_crashed_until_it_is_back(far: Far) -> None:
    launch(far, restart={}, hosts=2, STEPS="60", STEP_S="0.1")
    wait_for(lambda: told_of_steps(far, 10))
    far.bed.crash(far.bed.hosts[1])
    wait_for(lambda: any(event["kind"] == "host_silent" for event in far.events()))
    far.bed.boot(far.bed.hosts[1])
    far.cli("attach", "r", timeout=60)
    assert len(starts(far.events())) == 1


def test_ranks_that_nobody_watches_end_when_their_lease_is_over_and_go_on_when_somebody_does(far: Far) -> None:
    launch(far, restart={"lease_s": 10}, STEPS="2000")
    wait_for(lambda: told_of_steps(far, 5))
    host = far.bed.hosts[1]
    far.bed.cut(host)
    wait_for(lambda: "the lease" in journal_on(far, "node2"), timeout_s=40)
    far.bed.mend(host)
    wait_for(lambda: bool(starts(far.events())), timeout_s=40)
    far.cli("stop", "r", "--grace", "0")


def journal_on(far: Far, host: str) -> str:
    """Return the journal of the first attempt on a test host."""
    (there,) = (one for one in far.bed.hosts if one.name == host)
    return far.bed.exec(there, ["cat", "/srv/work/r/attempts/1/journal.jsonl"]).stdout


def test_a_controller_that_is_killed_between_attempts_has_a_successor_that_goes_on(far: Far) -> None:
    launch(far, restart={"backoff_s": 3}, DIE="1:KILL:1")
    wait_for(lambda: bool(ends(far.events())))
    for pid in far.controllers():
        os.kill(pid, signal.SIGKILL)
    far.cli("attach", "r", timeout=60)
    assert len(starts(far.events())) == 1
