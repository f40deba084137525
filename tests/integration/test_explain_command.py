"""`ascendrun explain` and what a failed launch says by itself, with real runs."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.conftest import Cli

DIES = """
import os, sys, time
if os.environ["RANK"] == "1":
    sys.stderr.write("a word of warning\\n")
    open("/nowhere/train.bin")
time.sleep(60)
"""


def test_a_launch_that_fails_says_why(cli: Cli, program: "Callable[..., list[str]]") -> None:
    done = cli("launch", "--devices", "2", "--name", "try", "--", *program(DIES), code=1)
    assert "cause: a file or folder that the job names is not there on this host" in done.stdout
    assert "program.py line 5, in <module>" in done.stdout
    assert "evidence: rank 1, " in done.stdout
    assert "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/train.bin'" in done.stdout
    assert "more: ascendrun explain try" in done.stdout

    told = json.loads(cli("explain", "--format", "json").stdout)
    assert (told["code"], told["category"], told["retriable"]) == ("file-missing", "configuration", False)
    assert (told["first_rank"], told["ending"]) == (1, "exit code 1")
    assert told["evidence"][0]["file"].endswith("train.log")

    text = cli("explain", "try", "--lang", "zh").stdout
    assert "类别: 配置" in text
    assert "重试是否有用: 否" in text


def test_a_rank_that_is_killed_is_told_by_its_signal(cli: Cli, program: "Callable[..., list[str]]") -> None:
    killed = "import os, signal, time\nif os.environ['RANK'] == '0': os.kill(os.getpid(), 9)\ntime.sleep(60)\n"
    done = cli("launch", "--devices", "2", "--name", "try", "--", *program(killed), code=1)
    assert "cause: the process was killed outright (SIGKILL)" in done.stdout


def test_of_a_run_that_was_restarted_the_last_attempt_is_explained(
    cli: Cli, program: "Callable[..., list[str]]"
) -> None:
    dies = "import os\nif os.environ['ASCENDRUN_ATTEMPT'] == '1': raise MemoryError\nopen('/nowhere/train.bin')\n"
    cli("launch", "--devices", "2", "--name", "try", "--max-restarts", "1", "--", *program(dies), code=1)
    told = json.loads(cli("explain", "try", "--format", "json").stdout)
    assert (told["code"], told["evidence"][0]["file"].split("/")[:2]) == ("file-missing", ["attempts", "2"])


def test_a_run_that_fails_without_a_word_is_not_explained(cli: Cli, program: "Callable[..., list[str]]") -> None:
    done = cli("launch", "--name", "try", "--", *program("raise SystemExit(7)"), code=1)
    assert "cause:" not in done.stdout
    told = cli("explain", "try").stdout
    assert "cause: no rule knows what these logs say" in told
    assert "first: rank 0: exit code 7" in told


def test_a_run_that_succeeded_says_so(cli: Cli, program: "Callable[..., list[str]]") -> None:
    cli("launch", "--name", "try", "--", *program("print('done')"))
    assert "try: succeeded" in cli("explain", "try").stderr


def test_what_is_neither_run_nor_log_is_the_users_input(cli: Cli) -> None:
    assert "no run" in cli("explain", code=2).stderr
    assert "nothing" in cli("explain", "nothing", code=2).stderr
    assert "neither a run nor a file or folder of logs" in cli("explain", "a.log", "b.log", code=2).stderr
    (cli.folder / "empty").mkdir()
    assert "no logs in there" in cli("explain", "empty", code=2).stderr
    assert "Traceback" not in cli("explain", "--lang", "fr", code=2).stderr


def test_logs_cannot_reach_into_the_readers_terminal(cli: Cli) -> None:
    (cli.folder / "worker_0.log").write_text("MemoryError: \x1b[2J\x1b]0;mine\x07 no more\n")
    told = cli("explain", "worker_0.log")
    assert "\x1b" not in told.stdout + told.stderr
    assert "MemoryError: ?[2J" in told.stdout
