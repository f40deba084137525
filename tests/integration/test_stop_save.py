"""`ascendrun stop --save`: runs of programs that keep a checkpoint when they are asked to end, and of others."""

from __future__ import annotations

import json
import sys

from tests.conftest import wait_for
from tests.integration.far import Far

# Asked to end, it takes longer than the job's grace to write its checkpoint.
SAVES = """
import json, os, signal, sys, time

def save(*_):
    time.sleep(1.5)
    with open(os.environ["ASCENDRUN_PROGRESS"], "a") as told:
        path = os.path.abspath("net-3_7.ckpt")
        open(path, "w").write("weights")
        told.write(json.dumps({"kind": "checkpoint", "path": path, "epoch": 3, "step": 7}) + "\\n")
    sys.exit(CODE)

signal.signal(signal.SIGTERM, save)
print("up", flush=True)
while True:
    time.sleep(600)
"""
SLEEPS = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"
JOB = "name: j\ncommand: {command}\ngrace_s: 0.5\n"


def started(cli, words):
    (cli.folder / "job.yaml").write_text(JOB.format(command=json.dumps(words)))
    cli("launch", "job.yaml", "--name", "r", "--devices", "1", "--detach")
    log = cli.run_dir("r") / "train/train.log"
    wait_for(lambda: log.exists() and "up" in log.read_text())


def test_it_waits_for_the_checkpoint_and_says_where_it_is(cli, program):
    started(cli, program(SAVES.replace("CODE", "75")))
    done = cli("stop", "r", "--save")
    path = cli.run_dir("r") / "train/net-3_7.ckpt"
    assert done.stdout == f"r: stopped by ascendrun stop, checkpoint {path} (epoch 3, step 7)\n"
    assert path.read_text() == "weights"
    assert "killing" not in [event["kind"] for event in cli.events("r")]
    assert cli.status("r")["outcome"] == "stopped"
    assert cli("stop", "r", "--save", code=1).stdout == "r: nothing to stop, stopped by ascendrun stop\n"


def test_a_program_that_ends_with_0_after_its_checkpoint_saved_too(cli, program):
    started(cli, program(SAVES.replace("CODE", "0")))
    assert "net-3_7.ckpt (epoch 3, step 7)" in cli("stop", "r", "--save").stdout


def test_a_program_that_keeps_nothing_is_said_to(cli, program):
    started(cli, program(SLEEPS))
    done = cli("stop", "r", "--save", code=1)
    assert done.stdout == "r: stopped by ascendrun stop, and no checkpoint was written\n"


def test_a_grace_that_is_given_bounds_the_writing(cli, program):
    started(cli, program(SAVES.replace("CODE", "75")))
    done = cli("stop", "r", "--save", "--grace", "0.2", code=1)
    assert done.stdout == "r: stopped by ascendrun stop, and no checkpoint was written\n"
    assert "killing" in [event["kind"] for event in cli.events("r")]


def test_a_plain_stop_shortens_the_wait(cli, program):
    started(cli, program(SAVES.replace("sleep(1.5)", "sleep(600)")))
    saving = cli.start("stop", "r", "--save")
    wait_for(lambda: "stopping" in [event["kind"] for event in cli.events("r")])
    cli("stop", "r")
    output, _ = saving.communicate(timeout=30)
    assert (saving.returncode, output) == (1, "r: stopped by ascendrun stop, and no checkpoint was written\n")


def test_ranks_on_far_hosts_are_given_the_time_too(far: Far) -> None:
    job = far.cli.folder / "job.yaml"
    job.write_text(JOB.format(command=json.dumps([sys.executable, "-c", SAVES.replace("CODE", "75")])))
    far.launch(str(job), "--devices", "1", "--detach")
    wait_for(lambda: far.cli("logs", "r").stdout.count("up") == 2)
    done = far.cli("stop", "r", "--save", timeout=60)
    assert "r: stopped by ascendrun stop, checkpoint " in done.stdout
    assert "net-3_7.ckpt (epoch 3, step 7)" in done.stdout
    assert [rank["code"] for rank in far.cli.status("r")["ranks"]] == [75, 75]
