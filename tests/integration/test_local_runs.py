"""Runs of real processes on this machine: started, ended, killed, found again."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import ASCENDRUN, processes_below, wait_for

SLEEP = "import time\nprint('up', flush=True)\ntime.sleep(600)\n"
DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)\n"
# Leaves behind: a child in its own session, and a daemon that shed its parent, session and environment.
MESSY = """
import os, subprocess, sys, time
subprocess.Popen(["sleep", "611"], start_new_session=True)
subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 612 & sleep 612"])
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve("/bin/sleep", ["sleep", "613"], {})
    os._exit(0)
print("up", flush=True)
"""


def all_up(cli, run, count):
    folders = [cli.run_dir(run) / ("train" if count == 1 else f"train_parallel{rank}") for rank in range(count)]
    logs = [folder / "train.log" for folder in folders]
    wait_for(lambda: all(log.exists() and "up" in log.read_text() for log in logs))


def sleepers(*seconds):
    """Return the pids of live `sleep SECONDS` processes: those of MESSY are known by their odd seconds."""
    listed = subprocess.run(["ps", "-eo", "pid,stat,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    return [int(pid) for pid, state, args in rows if state[0] != "Z" and args in [f"sleep {s}" for s in seconds]]


def test_every_rank_gets_the_variables_of_all_three_ways_to_start(cli, program):
    cli(
        "launch",
        "--devices",
        "0,2",
        "--name",
        "r",
        "--",
        *program("import json, os\nprint(json.dumps(dict(os.environ)))\nprint(os.getcwd())"),
    )
    for rank, device in ((0, "0"), (1, "2")):
        log = (cli.run_dir("r") / f"train_parallel{rank}/train.log").read_text().splitlines()
        env = json.loads(log[0])
        assert (env["RANK_ID"], env["RANK"], env["LOCAL_RANK"]) == (str(rank),) * 3
        assert (env["RANK_SIZE"], env["WORLD_SIZE"], env["MS_WORKER_NUM"]) == ("2",) * 3
        assert (env["DEVICE_ID"], env["MS_ROLE"], env["MS_NODE_ID"]) == (device, "MS_WORKER", str(rank))
        assert env["MASTER_ADDR"] and int(env["MASTER_PORT"]) != int(env["MS_SCHED_PORT"])
        assert log[1] == str(cli.folder), "a program runs where the user stands"
        recorded = (cli.run_dir("r") / f"train_parallel{rank}/env.log").read_text()
        assert f"RANK_ID={rank}\n" in recorded


def test_a_single_rank_works_in_the_folder_train(cli):
    cli("launch", "--name", "one", "--", "true")
    assert (cli.run_dir("one") / "train/train.log").exists()


def test_env_log_masks_secrets_and_is_private(cli):
    cli.environment["MY_API_TOKEN"] = "hunter2"
    cli("launch", "--name", "s", "--", "true")
    log = cli.run_dir("s") / "train/env.log"
    assert "MY_API_TOKEN=***" in log.read_text() and "hunter2" not in log.read_text()
    assert log.stat().st_mode & 0o077 == 0
    written = b"".join(path.read_bytes() for path in cli.run_dir("s").rglob("*") if path.is_file())
    assert b"hunter2" not in written


def test_a_failing_rank_ends_the_run_at_once_and_is_named(cli, program):
    done = cli(
        "launch",
        "--devices",
        "4",
        "--name",
        "f",
        "--",
        *program(
            "import os, sys, time\n"
            "if os.environ['RANK'] == '2':\n    print('the third line of three'); sys.exit(3)\ntime.sleep(600)"
        ),
        code=1,
    )
    assert "rank 2" in done.stdout and "exit code 3" in done.stdout and "the third line of three" in done.stdout
    events = cli.events("f")
    told = next(event for event in events if event["kind"] == "process_exited" and event["rank"] == 2)
    assert told["mono"] - told["data"]["mono"] < 1.0, "the supervisor learnt of it within a second"
    state = cli.status("f")
    assert (state["outcome"], state["first_failure"]) == ("failed", 2)
    assert [rank["phase"] for rank in state["ranks"]] == ["stopped", "stopped", "failed", "stopped"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_rank_killed_by_a_signal_is_told_from_one_that_exits_with_128_more(cli, program, number):
    cli("launch", "--name", "k", "--", *program(f"import os\nos.kill(os.getpid(), {int(number)})"), code=1)
    assert cli.status("k")["ranks"][0]["signal"] == int(number)
    cli("launch", "--name", "e", "--", *program(f"import sys\nsys.exit({128 + int(number)})"), code=1)
    rank = cli.status("e")["ranks"][0]
    assert (rank["signal"], rank["code"]) == (None, 128 + int(number))


def test_nothing_is_left_of_ranks_that_leave_children_orphans_and_daemons(cli, program):
    cli("launch", "--devices", "2", "--name", "m", "--", *program(MESSY + "raise SystemExit(5)"), code=1)
    assert sleepers(611, 612, 613) == []
    assert cli.status("m")["first_failure"] in (0, 1)


def test_stop_ends_ranks_that_ignore_sigterm_and_their_grandchildren(cli, program):
    cli("launch", "--devices", "2", "--name", "d", "--detach", "--", *program(DEAF + "", "deaf.py"))
    all_up(cli, "d", 2)
    began = time.monotonic()
    assert "stopped by ascendrun stop" in cli("stop", "d", "--grace", "1").stdout
    assert time.monotonic() - began >= 1.0, "the grace was given"
    assert [rank["signal"] for rank in cli.status("d")["ranks"]] == [9, 9]
    assert "nothing to stop" in cli("stop", "d").stdout


def test_stop_wakes_a_rank_that_was_suspended(cli, program):
    cli("launch", "--name", "z", "--detach", "--", *program(SLEEP))
    all_up(cli, "z", 1)
    os.kill(cli.rank_pids("z", 1)[0], signal.SIGSTOP)
    cli("stop", "z", "--grace", "30", timeout=15)
    assert cli.status("z")["ranks"][0]["signal"] == signal.SIGTERM


@pytest.mark.parametrize(("number", "presses"), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_ctrl_c_stops_the_run_and_leaves_nothing(cli, program, number, presses):
    source = DEAF if presses == 2 else SLEEP
    launched = cli.start("launch", "--devices", "2", "--name", "c", "--", *program(source))
    all_up(cli, "c", 2)
    for _ in range(presses):
        launched.send_signal(number)
        time.sleep(0.3)
    _, err = launched.communicate(timeout=9 if presses == 2 else 30)
    assert launched.returncode == 130, err
    assert "Traceback" not in err
    assert cli.status("c")["outcome"] == "stopped"


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.1, 0.15, 0.2, 0.3])
def test_ctrl_c_at_any_moment_of_a_launch_leaves_nothing_running(cli, program, delay_s):
    launched = cli.start("launch", "--devices", "4", "--name", "early", "--", *program(SLEEP))
    time.sleep(delay_s)
    launched.send_signal(signal.SIGINT)
    _, err = launched.communicate(timeout=30)
    # Before our first line runs the interpreter itself answers, with a traceback and 1: there is nothing to stop yet.
    assert launched.returncode in (130, -signal.SIGINT) or (launched.returncode == 1 and "KeyboardInterrupt" in err), (
        err
    )
    assert processes_below(cli.folder) == {}


def test_a_closed_terminal_leaves_the_run_going(cli, program, tmp_path):
    release = tmp_path / "release"
    words = program(
        f"import os, time\nprint('up', flush=True)\nwhile not os.path.exists({str(release)!r}): time.sleep(0.05)"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever started the tests may have it ignored, as nohup does
        os.chdir(cli.folder)
        os.execve(ASCENDRUN, [ASCENDRUN, "launch", "--devices", "2", "--name", "t", "--", *words], cli.environment)
    all_up(cli, "t", 2)
    os.close(terminal)  # the kernel sends SIGHUP to whoever was in front of it
    os.waitpid(pid, 0)
    assert cli.status("t")["outcome"] == "running"
    release.touch()
    wait_for(lambda: cli.status("t")["finished"])
    assert cli.status("t")["outcome"] == "succeeded"


def test_a_killed_launch_leaves_the_run_going(cli, program, tmp_path):
    release = tmp_path / "release"
    launched = cli.start(
        "launch",
        "--devices",
        "2",
        "--name",
        "k",
        "--",
        *program(
            f"import os, time\nprint('up', flush=True)\nwhile not os.path.exists({str(release)!r}): time.sleep(0.05)"
        ),
    )
    all_up(cli, "k", 2)
    launched.kill()
    launched.communicate()
    release.touch()
    wait_for(lambda: cli.status("k")["finished"])
    assert cli.status("k")["outcome"] == "succeeded"


def test_a_killed_supervisor_is_replaced_and_no_exit_code_is_lost(cli, program, tmp_path):
    release = tmp_path / "release"
    cli(
        "launch",
        "--devices",
        "3",
        "--name",
        "s",
        "--detach",
        "--",
        *program(
            "import os, sys, time\nprint('up', flush=True)\n"
            f"while not os.path.exists({str(release)!r}): time.sleep(0.05)\n"
            "sys.exit(7 if os.environ['RANK'] == '1' else 0)"
        ),
    )
    all_up(cli, "s", 3)
    pids = cli.rank_pids("s", 3)
    supervisor = cli.supervisor_pid("s")
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: "State:\tR" not in status_of(supervisor) and "State:\tS" not in status_of(supervisor))
    assert all("State:\tZ" not in status_of(pid) for pid in pids), "the ranks train on"
    release.touch()
    wait_for(lambda: len(list((cli.run_dir("s") / "processes").glob("*.exited.json"))) == 3)
    state = cli.status("s")
    assert (state["outcome"], state["finished"], state["first_failure"]) == ("failed", True, 1)
    assert [rank["code"] for rank in state["ranks"]] == [0, 7, 0]
    assert state["supervisors_killed"] == 1
    assert "supervisor of this run was killed" in cli("status", "s").stdout


def test_an_attached_launch_replaces_a_killed_supervisor_by_itself(cli, program):
    launched = cli.start("launch", "--devices", "2", "--name", "a", "--", *program(SLEEP))
    all_up(cli, "a", 2)
    first = cli.supervisor_pid("a")
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: cli.supervisor_pid("a") != first)
    launched.send_signal(signal.SIGINT)
    launched.communicate(timeout=30)
    assert launched.returncode == 130
    assert [rank["phase"] for rank in cli.status("a")["ranks"]] == ["stopped", "stopped"]


def test_ranks_whose_keeper_was_killed_too_are_lost_and_said_to_be(cli, program):
    cli("launch", "--devices", "2", "--name", "l", "--detach", "--", *program(SLEEP))
    all_up(cli, "l", 2)
    started = json.loads((cli.run_dir("l") / "processes/rank-0.started.json").read_text())
    for pid in (cli.supervisor_pid("l"), started["keeper_pid"], started["pid"]):
        os.kill(pid, signal.SIGKILL)
    state = wait_for(lambda: (state := cli.status("l"))["finished"] and state)
    assert (state["outcome"], state["first_failure"], state["ranks"][0]["phase"]) == ("failed", 0, "lost")
    assert state["ranks"][1]["phase"] == "lost"


def test_many_at_once_replace_a_killed_supervisor_only_once(cli, program):
    cli("launch", "--devices", "2", "--name", "o", "--detach", "--", *program(SLEEP))
    all_up(cli, "o", 2)
    os.kill(cli.supervisor_pid("o"), signal.SIGKILL)
    watchers = [cli.start("status", "o", "--json") for _ in range(6)]
    states = [json.loads(watcher.communicate(timeout=60)[0]) for watcher in watchers]
    assert {state["outcome"] for state in states} == {"running"}
    assert sum(event["kind"] == "supervisor_adopted" for event in cli.events("o")) == 1
    cli("stop", "o")
    assert [event["seq"] for event in cli.events("o")] == list(range(1, len(cli.events("o")) + 1))


def test_of_two_launches_with_one_name_exactly_one_starts(cli, program):
    words = program(SLEEP)
    launched = [cli.start("launch", "--name", "twin", "--detach", "--", *words) for _ in range(4)]
    errors = [one.communicate(timeout=60)[1] for one in launched]
    assert sorted(one.returncode for one in launched) == [0, 2, 2, 2]
    assert sum("a run named 'twin' exists already" in error for error in errors) == 3
    cli("stop", "twin")


def test_launches_without_a_name_never_clash(cli):
    launched = [cli.start("launch", "--", "true") for _ in range(5)]
    errors = [one.communicate(timeout=60)[1] for one in launched]
    assert [one.returncode for one in launched] == [0] * 5, errors
    assert len(json.loads(cli("status", "--json").stdout)) == 5


def test_a_program_that_cannot_be_executed_is_named(cli, tmp_path):
    script = tmp_path / "broken"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    done = cli("launch", "--name", "x", "--", str(script), code=1)
    assert "could not start" in done.stdout and "No such file" in done.stdout


def test_status_shows_steps_of_a_program_that_only_logs_like_mindspore(cli, program, tmp_path):
    release = tmp_path / "release"
    cli(
        "launch",
        "--name",
        "p",
        "--detach",
        "--",
        *program(
            "import os, time\nprint('epoch: 3 step: 17, loss is 0.625', flush=True)\n"
            f"while not os.path.exists({str(release)!r}): time.sleep(0.05)"
        ),
    )
    latest = wait_for(lambda: (seen := cli.status("p")["ranks"][0]["latest"]).get("rss_bytes") and seen)
    assert (latest["epoch"], latest["step"], latest["loss"]) == (3, 17, 0.625)
    release.touch()
    wait_for(lambda: cli.status("p")["finished"])


def test_status_shows_what_a_program_tells_in_its_progress_file(cli, program):
    cli(
        "launch",
        "--name",
        "c",
        "--",
        *program(
            "import json, os\nwith open(os.environ['ASCENDRUN_PROGRESS'], 'a') as f:\n"
            "    for fact in ({'kind': 'phase', 'phase': 'train'}, {'kind': 'step', 'epoch': 1, 'epochs': 2,\n"
            "                 'step': 5,\n"
            "                 'steps': 8, 'loss': 1.5, 'step_s': 0.25, 'images_per_s': 256},\n"
            "                 {'kind': 'checkpoint', 'path': '/x/a-1_5.ckpt', 'epoch': 1, 'step': 5}):\n"
            "        f.write(json.dumps(fact) + '\\n')"
        ),
    )
    shown = cli("status", "c").stdout
    assert "1/2" in shown and "5/8" in shown and "1.5" in shown and "0.250 s" in shown and "256" in shown
    assert "/x/a-1_5.ckpt (epoch 1, step 5)" in shown


def test_logs_prefix_each_line_with_its_rank_and_fold_equal_ones(cli, program):
    cli(
        "launch",
        "--devices",
        "3",
        "--name",
        "g",
        "--",
        *program("import os, sys\nprint('same')\nprint('mine', os.environ['RANK'])\nsys.stdout.write('no newline')"),
    )
    plain = cli("logs", "g").stdout.splitlines()
    assert plain == [f"[rank {rank}] {line}" for rank in range(3) for line in ("same", f"mine {rank}", "no newline")]
    assert cli("logs", "g", "--rank", "1").stdout.splitlines() == plain[3:6]
    folded = cli("logs", "g", "--fold").stdout.splitlines()
    assert folded.count("[rank 0-2] same") == 1 and "[rank 1] mine 1" in folded and "[rank 0-2] no newline" in folded
    assert cli("logs", "g", "--tail", "1").stdout.splitlines() == [f"[rank {rank}] no newline" for rank in range(3)]


def test_followed_logs_of_chatty_ranks_are_complete_and_never_mixed(cli, program):
    following = None
    launched = cli.start(
        "launch",
        "--devices",
        "4",
        "--name",
        "w",
        "--",
        *program(
            "import os, sys\nfor i in range(5000):\n    sys.stdout.write(f'{i}:'); sys.stdout.flush()\n"
            "    sys.stdout.write('x' * (i % 97) + os.environ['RANK'] + '\\n')"
        ),
    )
    wait_for(lambda: (cli.run_dir("w") / "journal.jsonl").exists())
    following = cli("logs", "w", "--follow")
    launched.communicate(timeout=60)
    lines = following.stdout.splitlines()
    for rank in range(4):
        mine = [line for line in lines if line.startswith(f"[rank {rank}] ")]
        assert mine == [f"[rank {rank}] {i}:{'x' * (i % 97)}{rank}" for i in range(5000)]
    assert len(lines) == 20_000


def test_output_into_a_closed_pipe_ends_quietly(cli, program):
    cli("launch", "--name", "h", "--", *program("for i in range(100000): print(i)"))
    done = subprocess.run(
        f"{ASCENDRUN} logs h | head -n 1",
        shell=True,
        cwd=cli.folder,
        env=cli.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("[rank 0] 0\n", "")


def test_collect_brings_everything_once_and_proves_it(cli, program):
    cli(
        "launch",
        "--devices",
        "2",
        "--name",
        "q",
        "--",
        *program(
            "import os, pathlib\nfolder = pathlib.Path(os.environ['ASCENDRUN_WORK_FOLDER']) / 'ckpt'\nfolder.mkdir()\n"
            "(folder / 'net-1_5.ckpt').write_bytes(os.urandom(3_000_000))\n"
            "(folder / 'net-1_6.ckpt.tmp').write_bytes(b'half')"
        ),
    )
    assert "2 checkpoints" in cli("collect", "q", "-o", "out").stdout
    check = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=cli.folder / "out", capture_output=True, text=True
    )
    assert check.returncode == 0, check.stdout + check.stderr
    manifest = json.loads((cli.folder / "out/manifest.json").read_text())
    listed = {file["path"]: file["size"] for file in manifest["files"]}
    assert listed["train_parallel1/ckpt/net-1_5.ckpt"] == 3_000_000
    assert "train_parallel0/train.log" in listed and not any(path.endswith(".tmp") for path in listed)
    again = json.loads(cli("collect", "q", "-o", "out", "--json").stdout)
    assert [file["path"] for file in again["files"] if file["copied"]] == []
    cli("launch", "--name", "other", "--", "true")
    assert "holds the run" in cli("collect", "other", "-o", "out", code=2).stderr


def test_checkpoints_saved_outside_the_run_are_collected_too(cli, program, tmp_path):
    outside = tmp_path / "big disk" / "net-2_7.ckpt"
    outside.parent.mkdir()
    cli(
        "launch",
        "--name",
        "out",
        "--",
        *program(
            "import json, os\n"
            f"open({str(outside)!r}, 'wb').write(b'weights')\n"
            "with open(os.environ['ASCENDRUN_PROGRESS'], 'a') as f:\n"
            f"    for path in ({str(outside)!r}, '/etc/passwd', {str(outside)!r} + 'x'):\n"
            "        f.write(json.dumps({'kind': 'checkpoint', 'path': path, 'epoch': 2, 'step': 7}) + '\\n')"
        ),
    )
    cli("collect", "out")
    name = f"checkpoints/rank-0{outside}"  # under its whole path: two of one name, in two folders, are two
    assert (cli.folder / "collected/out" / name).read_bytes() == b"weights"
    manifest = json.loads((cli.folder / "collected/out/manifest.json").read_text())
    assert [file["path"] for file in manifest["files"] if file["kind"] == "checkpoint"] == [name]


def test_looking_at_a_collected_copy_of_a_running_run_touches_no_rank(cli, program):
    cli("launch", "--devices", "2", "--name", "live", "--detach", "--", *program(SLEEP))
    all_up(cli, "live", 2)
    cli("collect", "live", "-o", "copy")
    copy = json.loads(cli("status", str(cli.folder / "copy"), "--json").stdout)
    assert copy["outcome"] == "running" and not (cli.folder / "copy/supervisor.lock").exists()
    assert cli.status("live")["outcome"] == "running"
    cli("stop", "live")


def test_eval_says_what_it_cannot_evaluate(cli, tmp_path):
    assert "no such checkpoint" in cli("eval", "lost.ckpt", code=2).stderr
    (tmp_path / "stray.ckpt").write_bytes(b"")
    assert "it lies in no run" in cli("eval", "stray.ckpt", code=2).stderr
    (tmp_path / "bare").mkdir()
    assert "no checkpoint in this folder" in cli("eval", "bare", code=2).stderr
    cli("launch", "--name", "none", "--", "true")
    assert "no checkpoint to evaluate" in cli("eval", "none", code=2).stderr


def test_a_dry_run_prints_the_plan_and_starts_nothing(cli):
    shown = cli("launch", "--devices", "2", "--dry-run", "--", "true").stdout
    assert "RANK_ID=1" in shown and "train_parallel1" in shown
    assert not (cli.folder / "runs").exists() and not (cli.folder / "home").exists()
    plan = json.loads(cli("launch", "--devices", "2", "--dry-run", "--json", "--", "true").stdout)
    assert [rank["device_id"] for rank in plan["ranks"]] == [0, 1]


def test_the_supervisor_shows_itself_and_its_keepers_by_name(cli, program):
    cli("launch", "--name", "n", "--detach", "--", *program(SLEEP))
    all_up(cli, "n", 1)
    titles = [title for title in processes_below(cli.folder).values() if title.startswith("ascendrun: ")]
    assert any(title.startswith("ascendrun: supervisor of n-") for title in titles)
    assert any(title.startswith("ascendrun: keeper of rank-0 of n-") for title in titles)
    cli("stop", "n")


def status_of(pid):
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def test_python_is_the_one_that_runs_the_tests():
    assert Path(ASCENDRUN).exists(), f"install the package for {sys.executable} first: make test does"


def test_a_fifo_in_place_of_a_file_that_we_read_does_not_hold_us_up(cli, program):
    words = program(
        "import os, time\n"
        "folder = os.environ['ASCENDRUN_WORK_FOLDER']\nos.remove(folder + '/train.log')\n"
        "os.mkfifo(folder + '/train.log')\nos.mkfifo(os.environ['ASCENDRUN_PROGRESS'])\ntime.sleep(600)"
    )
    cli("launch", "--name", "fifo", "--detach", "--", *words)
    wait_for(lambda: (cli.run_dir("fifo") / "train/progress.jsonl").exists())
    wait_for(lambda: cli.status("fifo")["ranks"][0]["latest"].get("rss_bytes"))  # a tick has passed
    assert cli("logs", "fifo", code=2).stderr.endswith("train.log: not a regular file\n")
    cli("stop", "fifo", "--grace", "1", timeout=20)
    cli("collect", "fifo")


def test_a_third_ctrl_c_leaves_even_when_the_supervisor_does_not_answer(cli, program):
    launched = cli.start("launch", "--name", "dumb", "--", *program(SLEEP))
    all_up(cli, "dumb", 1)
    supervisor = cli.supervisor_pid("dumb")
    left = threading.Event()

    def keep_stopped():  # one that is stopped once is woken
        while not left.wait(0.001):
            os.kill(supervisor, signal.SIGSTOP)

    keeper = threading.Thread(target=keep_stopped)
    keeper.start()
    for _ in range(3):
        launched.send_signal(signal.SIGINT)
        time.sleep(0.5)
    _, err = launched.communicate(timeout=20)
    left.set()
    keeper.join()
    assert launched.returncode == 3 and "left dumb while it was stopping" in err
    wait_for(lambda: cli.status("dumb")["finished"])


def test_a_supervisor_that_somebody_stopped_is_woken_and_stops_the_run(cli, program):
    cli("launch", "--name", "r", "--detach", "--", *program(SLEEP))
    all_up(cli, "r", 1)
    os.kill(cli.supervisor_pid("r"), signal.SIGSTOP)
    cli("stop", "r", timeout=30)
    assert cli.status("r")["outcome"] == "stopped"


def test_the_longest_job_name_still_makes_a_run_name(cli):
    (cli.folder / "job.yaml").write_text(f"name: {'n' * 64}\ncommand: ['true']\n")
    launched = [cli.start("launch", "job.yaml") for _ in range(2)]
    assert [one.communicate(timeout=60) and one.returncode for one in launched] == [0, 0]


def test_a_launch_in_the_background_of_a_script_is_deaf_to_ctrl_c_as_its_shell_wants(cli, program):
    source = f"import os, signal, sys; signal.signal(2, signal.SIG_IGN); os.execv({ASCENDRUN!r}, sys.argv[1:])"
    words = [sys.executable, "-c", source, ASCENDRUN, "launch", "--name", "bg", "--", *program(SLEEP)]
    launched = subprocess.Popen(words, cwd=cli.folder, env=cli.environment, stderr=subprocess.PIPE, text=True)
    all_up(cli, "bg", 1)
    launched.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        launched.wait(timeout=1.5)
    launched.send_signal(signal.SIGTERM)
    _, err = launched.communicate(timeout=30)
    assert launched.returncode == 130 and "stopping bg" in err
