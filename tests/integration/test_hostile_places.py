"""Run folders of others, of other places and other boots; full disks; ranks and launchers that misbehave."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ASCENDRUN, wait_for
from tests.integration.test_local_runs import DEAF, SLEEP, all_up

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


def orphan(cli, program, name="own", devices=1):
    """Start a run, kill its supervisor, and return its folder."""
    cli("launch", "--devices", str(devices), "--name", name, "--detach", "--", *program(SLEEP))
    all_up(cli, name, devices)
    supervisor = cli.supervisor_pid(name)
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: not alive(supervisor))
    return cli.run_dir(name)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@needs_root
def test_a_folder_that_another_user_could_have_written_is_looked_at_but_never_taken_over(cli, program):
    folder = orphan(cli, program)
    pid = cli.rank_pids("own", 1)[0]
    for target, change in ((folder, "chown"), (folder / "host_plan.json", "chown"), (folder, "chmod")):
        if change == "chown":
            os.chown(target, 65534, 65534)
        else:
            target.chmod(0o777)
        assert cli.status("own")["supervisors_killed"] == 0, "nobody took it over"
        os.chown(target, 0, 0)
        folder.chmod(0o755)
    assert cli.status("own")["supervisors_killed"] == 1 and alive(pid)
    cli("stop", "own")


@needs_root
def test_from_another_pid_namespace_a_run_is_only_looked_at(cli, program):
    orphan(cli, program)
    inside = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", ASCENDRUN, "status", "own"],
        cwd=cli.folder, env=cli.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert inside.returncode == 0, inside.stderr
    assert "this run lives on" in inside.stderr and "failed" not in inside.stdout
    assert not any(event["kind"] == "supervisor_adopted" for event in cli.events("own"))
    assert cli.status("own")["ranks"][0]["phase"] == "running"
    cli("stop", "own")


def test_after_a_reboot_nothing_is_signalled_and_the_ranks_are_lost(cli, program):
    folder = orphan(cli, program)
    bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        rank = cli.rank_pids("own", 1)[0]
        started = json.loads((folder / "processes/rank-0.started.json").read_text())
        keeper = started["keeper_pid"]
        owner = json.loads((folder / "supervisor.lock").read_text())
        started["place"][2] = owner[1][2] = "an-earlier-boot"
        started["pid"] = started["keeper_pid"] = bystander.pid
        (folder / "processes/rank-0.started.json").write_text(json.dumps(started))
        (folder / "supervisor.lock").write_text(json.dumps(owner))
        (folder / "requests/stop.json").write_text('{"grace_s": 0, "by": "somebody before the reboot"}')
        for pid in (keeper, rank):
            os.kill(pid, signal.SIGKILL)
        state = wait_for(lambda: (state := cli.status("own"))["finished"] and state)
        assert state["ranks"][0]["phase"] == "lost"
        assert bystander.poll() is None, "a stranger with the old number was signalled"
    finally:
        bystander.kill()
        bystander.wait()


def test_the_first_to_fail_is_named_even_if_all_ended_before_anybody_looked(cli, program):
    cli("launch", "--devices", "3", "--name", "own", "--detach", "--", *program(
        "import os, sys, time\nprint('up', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.02)\n"
        "time.sleep(0.2 * (3 - int(os.environ['RANK'])))\nsys.exit(10 + int(os.environ['RANK']))"))  # fmt: skip
    all_up(cli, "own", 3)
    os.kill(cli.supervisor_pid("own"), signal.SIGKILL)
    (cli.folder / "go").touch()
    wait_for(lambda: len(list((cli.run_dir("own") / "processes").glob("*.exited.json"))) == 3)
    state = wait_for(lambda: (state := cli.status("own"))["finished"] and state)
    assert state["first_failure"] == 2
    assert [rank["code"] for rank in state["ranks"]] == [10, 11, 12]


def test_what_a_rank_told_is_told_once_whoever_supervises_and_all_of_it(cli, program):
    cli("launch", "--name", "own", "--detach", "--", *program(
        "import json, os, time\n"
        "def tell(**fact):\n"
        "    with open(os.environ['ASCENDRUN_PROGRESS'], 'a') as f: f.write(json.dumps(fact) + '\\n')\n"
        "tell(kind='checkpoint', path='/x/1.ckpt', epoch=1, step=1)\nprint('up', flush=True)\n"
        "while not os.path.exists('go'): time.sleep(0.02)\n"
        "with open(os.environ['ASCENDRUN_PROGRESS'], 'a') as f:\n"
        "    for i in range(60000):\n"
        "        f.write(json.dumps({'kind': 'step', 'epoch': 1, 'step': i, 'note': 'x' * 50}) + '\\n')\n"
        "tell(kind='checkpoint', path='/x/2.ckpt', epoch=1, step=60000)"))  # fmt: skip
    all_up(cli, "own", 1)
    wait_for(lambda: cli.status("own")["checkpoints"])
    os.kill(cli.supervisor_pid("own"), signal.SIGKILL)
    assert cli.status("own")["supervisors_killed"] == 1
    (cli.folder / "go").touch()
    state = wait_for(lambda: (state := cli.status("own"))["finished"] and state)
    assert [checkpoint["path"] for checkpoint in state["checkpoints"]] == ["/x/1.ckpt", "/x/2.ckpt"]
    assert state["ranks"][0]["latest"]["step"] == 59999


def test_a_rank_that_tells_nonsense_hurts_nobody(cli, program):
    words = program(
        'import os, sys, time\nfor line in (\'{"kind":"phase","phase":["x"]}\', \'[[[[\' * 9999, \'{"kind":"step",'
        '"step":"5","loss":NaN,"epoch":[1],"cpu_percent":"high","rss_bytes":{}}\', \'\\\\ud800\', \'\\x1b[2J\'):\n'
        "    open(os.environ['ASCENDRUN_PROGRESS'], 'a').write(line + '\\n')\n"
        "print('\\x1b[31mred\\x07', flush=True)\ntime.sleep(2.5)\nsys.exit(1)"
    )
    done = cli("launch", "--name", "own", "--", *words, code=1)
    assert "?[31mred?" in done.stdout and "\x1b[31mred" not in done.stdout
    assert "Traceback" not in done.stderr + (cli.run_dir("own") / "supervisor.log").read_text()
    assert "own" in cli("status").stdout


def test_a_daemon_that_ignores_sigterm_is_killed_when_asked_to_hurry(cli, program):
    cli("launch", "--name", "own", "--detach", "--", *program(
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', "
        "'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(614)'], start_new_session=True)\n"
        "import time; time.sleep(0.5)"))  # fmt: skip
    wait_for(lambda: any(event["kind"] == "swept" for event in cli.events("own")))
    began = time.monotonic()
    cli("stop", "own", "--grace", "0")
    assert time.monotonic() - began < 6, "the daemon was given the job's ten seconds"


def test_many_at_once_never_fail_over_a_killed_supervisor(cli, program):
    folder = orphan(cli, program)
    with (folder / "journal.jsonl").open("a") as journal:  # a long history makes the race wide
        for _ in range(20_000):
            journal.write('{"seq":0,"at":0,"mono":0,"kind":"old","host":"h"}\n')
    watchers = [cli.start("status", "own", "--json") for _ in range(6)]
    results = [(watcher.communicate(timeout=60)[1], watcher.returncode) for watcher in watchers]
    assert [code for _, code in results] == [0] * 6, results
    cli("stop", "own")


def test_a_launch_whose_parent_ignores_sigchld_works(cli):
    source = f"import os, signal, sys; signal.signal(17, signal.SIG_IGN); os.execv({ASCENDRUN!r}, sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", source, ASCENDRUN, "launch", "--name", "own", "--", "true"],
        cwd=cli.folder, env=cli.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "own: succeeded" in done.stdout


def test_the_supervisor_holds_none_of_its_launchers_files(cli, program, tmp_path):
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cli("launch", "--name", "own", "--detach", "--", *program(SLEEP), pass_fds=(lock.fileno(),))
        all_up(cli, "own", 1)
    with (tmp_path / "lock").open("w") as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where somebody still holds it
    assert cli.status("own")["outcome"] == "running"
    cli("stop", "own")


def test_secrets_do_not_leave_with_what_is_collected(cli):
    cli("launch", "--name", "own", "--set", "environment.API_TOKEN=hunter2", "--set", "environment.PLAIN=seen", "--",
        "sh", "-c", "test ${#API_TOKEN} = 7")  # fmt: skip
    cli("collect", "own", "-o", "out")
    collected = b"".join(path.read_bytes() for path in (cli.folder / "out").rglob("*") if path.is_file())
    assert b"hunter2" not in collected and b"seen" in collected
    check = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=cli.folder / "out", capture_output=True)
    assert check.returncode == 0


def test_followed_logs_end_although_the_supervisor_was_killed(cli, program):
    cli("launch", "--name", "own", "--detach", "--", *program("import time\nprint('up', flush=True)\ntime.sleep(2)"))
    all_up(cli, "own", 1)
    os.kill(cli.supervisor_pid("own"), signal.SIGKILL)
    assert cli("logs", "own", "--follow", timeout=30).stdout == "[rank 0] up\n"


@pytest.fixture
def full_disk(cli, program, tmp_path):
    """A run in a file system that has filled up since; afterwards there is room again."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", disk], check=True)
    try:
        cli.environment["ASCENDRUN_RUN_DIR"] = str(disk)
        cli("launch", "--name", "own", "--detach", "--", *program(DEAF))
        wait_for(lambda: "up" in (disk / "own/train/train.log").read_text())
        with (disk / "ballast").open("wb") as ballast, pytest.raises(OSError, match="No space"):
            while True:
                ballast.write(b"x" * 65536)
                ballast.flush()
        yield disk
    finally:
        (disk / "ballast").unlink(missing_ok=True)
        wait_for(lambda: cli.status("own")["finished"])
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("supervisor_killed", [False, True])
def test_a_run_on_a_full_disk_can_be_stopped(cli, full_disk, supervisor_killed):
    lock = json.loads((full_disk / "own/supervisor.lock").read_text())
    pid = json.loads((full_disk / "own/processes/rank-0.started.json").read_text())["pid"]
    if supervisor_killed:
        os.kill(lock[0][0], signal.SIGKILL)
        wait_for(lambda: not alive(lock[0][0]))
        cli("status", "own")
    stopping = cli.start("stop", "own", "--grace", "1")
    wait_for(lambda: not alive(pid))
    (full_disk / "ballast").unlink()
    out, err = stopping.communicate(timeout=30)
    assert stopping.returncode == 0, err
    assert "stopped" in out
