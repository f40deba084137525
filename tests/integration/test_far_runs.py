"""Runs on many hosts, over real sshds: launched, watched, broken, taken over, stopped and collected from a third."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import ASCENDRUN, processes_below, wait_for
from tests.integration.far import BEGINS, Far, nothing_left, whole
from tests.integration.terminal import PASSPHRASE, at_terminal, locked_key


def test_a_program_runs_on_all_hosts_and_comes_back_whole(far: Far) -> None:
    done = far.launch("--devices", "2", "--", *far.program(), "3", hosts=3)
    assert "r: succeeded" in done.stdout
    state = far.cli.status("r")
    assert [rank["host"] for rank in state["ranks"]] == ["node1", "node1", "node2", "node2", "node3", "node3"]
    assert {rank["phase"] for rank in state["ranks"]} == {"succeeded"}
    whole(far.events())
    logs = far.cli("logs", "r").stdout
    assert [line for line in logs.splitlines() if "rank 5" in line][-1] == f"[rank 5] epoch: 1 step: 3, loss is {1 / 3}"
    far.cli("collect", "r")
    collected = far.cli.folder / "collected/r"
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=collected, check=True)
    assert (collected / "train_parallel5/train.log").read_text().count("loss is") == 3
    assert json.loads((collected / "manifest.json").read_text())["hosts"] == ["node1", "node2", "node3"]


def test_a_failing_rank_ends_those_on_other_hosts_and_is_named(far: Far) -> None:
    text = "import os, sys, time\nif os.environ['RANK'] == '3':\n    sys.exit(7)\ntime.sleep(600)\n"
    began = time.monotonic()
    done = far.launch("--devices", "2", "--", *far.program(text), code=1)
    assert "rank 3 failed first: exit code 7" in done.stdout
    assert time.monotonic() - began < 30
    whole(far.events())


def test_stop_ends_all_ranks_on_all_hosts(far: Far) -> None:
    far.launch("--devices", "2", "--detach", "--", *far.program(), "1000")
    wait_for(far.steps_told)
    done = far.cli("stop", "r")
    assert done.stdout == "r: stopped by ascendrun stop\n"
    assert nothing_left(far.bed, far.before) == []


def test_the_logs_of_all_hosts_flow_here_as_they_grow(far: Far) -> None:
    far.launch("--devices", "1", "--detach", "--", *far.program(), "20")
    lines = far.cli("logs", "r", "--follow", timeout=60).stdout.splitlines()
    for rank in range(2):
        mine = [line for line in lines if line.startswith(f"[rank {rank}] epoch")]
        assert mine == [f"[rank {rank}] epoch: 1 step: {step}, loss is {1 / step}" for step in range(1, 21)]


def test_a_killed_controller_is_taken_over_by_whoever_looks(far: Far) -> None:
    far.launch("--devices", "1", "--detach", "--", *far.program(), "30")
    wait_for(far.steps_told)
    far.kill_controller()
    done = far.cli("attach", "r", timeout=60)
    assert "r: succeeded" in done.stdout
    assert "killed once" in done.stdout
    whole(far.events())


def test_a_launch_that_is_killed_halfway_leaves_a_run_that_can_be_found_and_stopped(far: Far) -> None:
    # node2 never gets to what it is told, until the connection ends.
    python = far.python_in_which(BEGINS.format(does="(sys.stdin.buffer.read(), os._exit(0))"))
    hosts = far.hosts(2, node2={"python": python})
    launch = far.cli.start("launch", "--hosts", hosts, "--name", "r", "--devices", "1", "--", *far.program(), "1000")
    wait_for(lambda: far.bed.exec(far.bed.hosts[0], ["pgrep", "-f", "train.py"], check=False).stdout)
    (apart,) = [pid for pid, words in processes_below(far.cli.folder).items() if pid != launch.pid]
    os.kill(apart, signal.SIGKILL)
    assert launch.wait(30) == 3
    assert far.cli.status("r")["outcome"] in ("running", "stopped")
    done = far.cli("attach", "r", code=1, timeout=60)
    assert "r: stopped by the controller: node2 has no part of this run" in done.stdout
    assert nothing_left(far.bed, far.before) == []


def test_a_cut_line_delays_events_and_a_stop_and_loses_none(far: Far) -> None:
    far.launch("--devices", "1", "--detach", "--", *far.program(), "1000")
    steps = wait_for(lambda: far.cli.status("r")["ranks"][1]["latest"].get("step"))
    far.bed.cut(far.bed.hosts[1])
    silent = wait_for(lambda: [one for one in far.events() if one["kind"] == "host_silent"], 40)
    assert silent[0]["data"]["host"] == "node2"
    assert "node2 cannot be reached" in far.cli("status", "r").stderr
    last = far.cli("stop", "r", code=3, timeout=40).stderr.splitlines()[-1]
    assert last.startswith("ascendrun: r: cannot reach node2, where ranks may run on; the run's controller keeps try")
    assert [rank["phase"] for rank in far.cli.status("r")["ranks"]] == ["stopped", "running"]
    far.bed.mend(far.bed.hosts[1])
    assert "r: stopped by ascendrun stop" in far.cli("attach", "r", code=1, timeout=90).stdout
    whole(far.events())
    kinds = [event["kind"] for event in far.events()]
    assert kinds.index("host_silent") < kinds.index("host_back") < kinds.index("run_finished")
    assert far.cli.status("r")["ranks"][1]["latest"]["step"] > steps + 25, "it trained on"


def test_a_passphrase_is_asked_for_once_at_launch_and_by_a_successor_that_has_a_terminal(far: Far) -> None:
    far.cli.environment.pop("SSH_AUTH_SOCK", None)
    hosts = far.hosts(2, identity_file=str(locked_key(far.cli, far.bed)))
    launch = [ASCENDRUN, "launch", "--hosts", hosts, "--name", "r", "--devices", "1", "--detach", "--"]
    code, said, shows = at_terminal(far.cli, [*launch, *far.program(), "1000"], [b"\x03"])
    assert (code, said.count(b"passphrase of"), shows) == (130, 1, True), said
    assert not far.cli.run_dir("r").exists()
    code, said, _ = at_terminal(far.cli, [*launch, *far.program(), "1000"], [b"secret words\n"])
    assert (code, said.count(b"passphrase of")) == (0, 1), said
    wait_for(far.steps_told)

    far.kill_controller()
    far.cli.status("r")  # nobody is there to ask: the successor goes on without, and says what helps
    wait_for(lambda: sum(event["kind"] == "host_silent" for event in far.events()) == 2)
    told = far.cli("status", "r").stderr.splitlines()
    assert ["locked by a passphrase" in line and "`ssh-add` it" in line for line in told] == [True, True], told

    far.kill_controller()
    code, said, _ = at_terminal(far.cli, [ASCENDRUN, "stop", "r"], [b"secret words\n"])
    assert (code, said.count(b"passphrase of")) == (0, 1), said
    assert b"r: stopped by ascendrun stop" in said
    whole(far.events())
    kept = [path for path in far.cli.folder.rglob("*") if path.is_file() and PASSPHRASE.encode() in path.read_bytes()]
    assert not kept


TRAIN = "import pathlib; pathlib.Path('ckpt').mkdir(); pathlib.Path('ckpt/net-1_1.ckpt').write_text('weights')"
EVALUATE = """
import os, json, sys
checkpoint = next(word.partition("=")[2] for word in sys.argv if word.startswith("--checkpoint_path="))
found = [os.path.join(checkpoint, name) for name in os.listdir(checkpoint)]
with open(os.environ["ASCENDRUN_PROGRESS"], "a") as progress:
    for path in found:
        told = {"kind": "evaluation", "checkpoint": path, "top_1_accuracy": 0.5, "weights": open(path).read()}
        progress.write(json.dumps(told) + "\\n")
"""


def test_eval_brings_the_checkpoints_of_far_hosts_and_says_whom_it_cannot_ask(far: Far) -> None:
    package = far.cli.folder / "code/mine"
    package.mkdir(parents=True)
    for name, text in (("__init__", ""), ("train", TRAIN), ("evaluate", EVALUATE)):
        (package / f"{name}.py").write_text(text)
    (far.cli.folder / "job.yaml").write_text("name: j\nmodule: mine.train\nevaluation: {module: mine.evaluate}\n")
    far.cli.environment["PYTHONPATH"] = str(package.parent)
    # Another package of that name lies in the way on one host: the one that was sent along counts.
    setup = ["mkdir -p /tmp/other/mine && echo 'raise SystemExit(9)' > /tmp/other/mine/__init__.py"]
    hosts = far.hosts(2, node2={"setup": [*setup, "export PYTHONPATH=/tmp/other"]})
    far.cli("launch", "job.yaml", "--hosts", hosts, "--name", "r", "--devices", "1")
    assert not list(far.cli.run_dir("r").rglob("*.ckpt"))
    far.bed.stop_sshd(far.bed.hosts[1])
    done = far.cli("eval", "r", "--dataset", ".", "--json")
    assert json.loads(done.stdout)[0]["weights"] == "weights"
    assert done.stderr.splitlines()[0].startswith("not looked at: node2: ")


def test_the_ranks_of_all_hosts_get_the_table_that_their_hosts_gave(far: Far) -> None:
    ring = Path(__file__).with_name("ring.py").read_text()
    far.launch("--devices", "8", "--rendezvous", "rank-table", "--", *far.program(ring))
    far.cli("collect", "r")
    log = far.cli.folder / "collected/r/train_parallel0/train.log"
    assert log.read_text() == f"ring {' '.join(map(str, range(16)))}\n"
    table = json.loads((far.cli.run_dir("r") / "rank_table.json").read_text())
    assert [server["server_id"] for server in table["server_list"]] == [host.address for host in far.bed.hosts[:2]]


def test_a_program_that_needs_no_folder_runs_from_an_empty_one(far: Far) -> None:
    empty = far.cli.folder / "empty"
    empty.mkdir()
    hosts, runs = far.hosts(1), str(far.cli.folder / "runs")
    words = [ASCENDRUN, "launch", "--hosts", hosts, "--name", "r", "--run-dir", runs, "--devices", "1", "--", "true"]
    done = subprocess.run(words, cwd=empty, env=far.cli.environment, capture_output=True, text=True, timeout=60)
    assert "r: succeeded" in done.stdout, done.stdout + done.stderr


def test_a_folder_that_hosts_share_is_used_in_place(far: Far) -> None:
    shared = far.bed.shared / "project"
    shared.mkdir(exist_ok=True)
    (shared / "where.py").write_text("import os; print(os.getcwd())")
    words = ["launch", "--hosts", far.hosts(), "--name", "r", "--run-dir", "/srv/work/runs", "--"]
    host = far.bed.hosts[2]  # the controller: it sees /srv/shared under the name that the others have for it
    (shared / "hosts.yaml").write_text(far.bed.exec(host, ["cat", "/root/hosts.yaml"]).stdout)
    words[2] = "/srv/shared/project/hosts.yaml"
    command = ["env", "--chdir=/srv/shared/project", str(Path(sys.executable).with_name("ascendrun")), *words]
    done = far.bed.exec(host, [*command, sys.executable, "where.py"], check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    log = far.bed.exec(far.bed.hosts[0], ["sh", "-c", "cat /srv/work/r/train_parallel0/train.log"]).stdout
    assert log == "/srv/shared/project\n"
