"""`ascendrun clean` on what earlier runs left: real processes, of runs that are gone and of runs that go on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.supervisor import abandoned
from orchestrator.supervisor.process import Identity
from tests.conftest import processes_below, wait_for
from tests.integration.far import Far

SLEEP = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"
DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEP


def started(cli, words, run="r", devices=1):
    cli("launch", "--name", run, "--devices", str(devices), "--detach", "--", *words)
    pids = cli.rank_pids(run, devices)
    folders = ["train"] if devices == 1 else [f"train_parallel{rank}" for rank in range(devices)]
    logs = [cli.run_dir(run) / folder / "train.log" for folder in folders]
    wait_for(lambda: all(log.exists() and "up" in log.read_text() for log in logs))
    return pids


def kill_who_watches(cli):
    """Kill the supervisors and keepers of all runs, and wait until the kernel knows them as dead."""
    watching = [
        Identity.of(pid) for pid, command in processes_below(cli.folder).items() if command.startswith("ascendrun: ")
    ]
    for one in watching:
        os.kill(one.pid, signal.SIGKILL)
    # One that dies loses its words before it counts as dead.
    wait_for(lambda: not any(one.is_alive() for one in watching))


def orphaned(cli, words, run="r", devices=1):
    """Start a run, kill all that watches over it, and remove its folder; return the pids of its ranks."""
    pids = started(cli, words, run, devices)
    kill_who_watches(cli)
    shutil.rmtree(cli.run_dir(run))
    return pids


def mine(cli, run="r"):
    """Return what a `clean` of this test may find; other tests may have runs of their own at the same time."""
    return [one for one in abandoned.find() if one.pid in processes_below(cli.folder) and one.run == run]


def test_ranks_of_a_removed_run_are_listed_and_ended_and_those_of_a_live_one_are_not(cli, program):
    left = orphaned(cli, program(SLEEP), "gone", 2)
    (alive,) = started(cli, program(SLEEP), "alive")
    listed = cli("clean", code=1, stdin=subprocess.DEVNULL)
    assert listed.stderr == "they go on: --yes ends them\n"
    lines = {int(line.split()[0]): line for line in listed.stdout.splitlines()[1:]}
    for rank, pid in enumerate(left):
        assert lines[pid].split()[1:3] == ["gone", str(rank)]
        assert "its run folder was removed" in lines[pid]
        assert "program.py" in lines[pid]
    assert alive not in lines
    assert set(left) <= set(processes_below(cli.folder))
    done = cli("clean", "--yes")
    assert done.stdout.splitlines()[-1] == "ended"
    assert not set(left) & set(processes_below(cli.folder))
    assert cli.status("alive")["ranks"][0]["phase"] == "running"
    assert alive in processes_below(cli.folder)
    assert mine(cli, "gone") == []
    cli("stop", "alive")


def test_a_run_whose_supervisor_and_keeper_were_killed_is_taken_over_and_no_leftover(cli, program):
    (pid,) = started(cli, program(SLEEP))
    kill_who_watches(cli)
    assert mine(cli) == []
    cli.run_dir("r").chmod(0o777)  # somebody else could have written what a successor would do as us
    assert [(one.pid, one.reason) for one in mine(cli)] == [
        (pid, "its supervisor is gone, and none may take its place")
    ]
    cli.run_dir("r").chmod(0o755)
    cli("stop", "r")


def test_a_folder_that_another_run_has_now_does_not_protect_what_the_first_one_left(cli, program):
    left = orphaned(cli, program(SLEEP))
    shutil.rmtree(cli.folder / "home")
    alive = started(cli, program(SLEEP))
    assert [one.pid for one in mine(cli)] == left
    cli("clean", "--yes")
    assert set(alive) == {pid for pid, command in processes_below(cli.folder).items() if "program.py" in command}
    cli("stop", "r")


def test_what_carries_the_mark_of_a_run_that_has_ended_is_a_leftover(cli, program):
    cli("launch", "--name", "r", "--", "true")
    recorded = (cli.run_dir("r") / "train/env.log").read_text().splitlines()
    marks = dict(line.split("=", 1) for line in recorded if line.startswith(("ASCENDRUN_", "RANK_ID=")))
    with subprocess.Popen(["sleep", "600"], env={**os.environ, **marks}) as process:
        found = wait_for(lambda: mine(cli))
        assert [(one.pid, one.rank, one.command, one.reason) for one in found] == [
            (process.pid, 0, "sleep 600", "its run has ended")
        ]
        assert 0 <= found[0].age_s < 60
        cli("clean", "--yes")
        assert process.wait(10) == -signal.SIGTERM


def test_one_that_ignores_sigterm_is_killed_when_the_grace_is_over(cli, program):
    orphaned(cli, program(DEAF))
    assert cli("clean", "--yes", "--grace", "0.3").stdout.splitlines()[-1] == "ended"
    assert processes_below(cli.folder) == {}


def test_only_what_was_chosen_and_is_a_leftover_still_is_ended(cli, program):
    left = orphaned(cli, program(SLEEP), devices=2)
    (alive,) = started(cli, program(SLEEP), "alive")
    (one, other) = [Identity.of(pid) for pid in left]
    reused = Identity(other.pid, other.start_ticks - 1)
    assert abandoned.end([one, reused, Identity.of(alive)], 5) == set()
    running = processes_below(cli.folder)
    assert (left[0] in running, left[1] in running, alive in running) == (False, True, True)
    assert abandoned.end([other], 5) == set()
    cli("stop", "alive")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_process_of_another_user_or_of_another_container_is_no_leftover(cli, program):
    marks = {"ASCENDRUN_RUN_ID": "r-1", "ASCENDRUN_RUN_FOLDER": "/nowhere/r", "ASCENDRUN_RUN_NAME": "r"}
    environment = {**os.environ, **marks}
    with (
        subprocess.Popen(["sleep", "600"], env=environment, user=65534) as foreign,
        subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "sleep", "601"], env=environment) as unsharing,
        subprocess.Popen(["sleep", "602"], env=environment) as ours,
    ):
        try:
            inside = wait_for(lambda: subprocess.run(["pgrep", "-P", str(unsharing.pid)], capture_output=True).stdout)
            pids = {one.pid for one in abandoned.find()}
            assert {ours.pid, unsharing.pid} <= pids  # the second is one of ours, who made a container
            assert not {foreign.pid, int(inside)} & pids
        finally:
            for process in (foreign, unsharing, ours):
                process.kill()


def test_who_looks_from_inside_what_a_run_left_does_not_end_itself(cli):
    marks = {"ASCENDRUN_RUN_ID": "r-1", "ASCENDRUN_RUN_FOLDER": "/nowhere/r"}
    words = ["sh", "-c", f"{shutil.which('ascendrun', path=os.path.dirname(sys.executable))} clean --yes; echo alive"]
    done = subprocess.run(words, env={**cli.environment, **marks}, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "alive"


def test_leftovers_of_far_hosts_are_found_and_ended(far: Far) -> None:
    far.launch("--devices", "1", "--detach", "--", *far.program(SLEEP))
    wait_for(lambda: far.cli("logs", "r").stdout.count("up") == 2)
    far.kill_controller()
    for host in far.bed.hosts[:2]:
        for pid in far.bed.processes(host):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ascendrun: "):
                os.kill(pid, signal.SIGKILL)
        far.bed.exec(host, ["rm", "-r", "/srv/work/r"])
    listed = far.cli("clean", "--hosts", far.hosts(), code=1, stdin=subprocess.DEVNULL).stdout
    assert [line.split()[:1] + line.split()[2:4] for line in listed.splitlines()[1:]] == [
        ["node1", "r", "0"],
        ["node2", "r", "1"],
    ]
    assert far.cli("clean", "--hosts", far.hosts(), "--yes").stdout.splitlines()[-1] == "ended"
    assert far.cli("clean", "--hosts", far.hosts()).stdout == "nothing is left of earlier runs\n"
