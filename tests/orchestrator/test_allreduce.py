"""A host's part of an all-reduce: what the rank says is passed on, and nothing of it is left however it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_for

PART = "import json, sys\nfrom orchestrator import farside\nsys.exit(farside.main(['pair']))"
READY = "print('noise'); print('ascendrun-pair {\"ready\": true}', flush=True)\n"


class Part:
    """`farside pair` for a program that stands for MindSpore, talked with as the controller does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "pair"
        self.process = subprocess.Popen(
            [sys.executable, "-c", PART],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def say(self, told: object) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def begin(self, program: str, limit_s: float = 30.0, **more: Any) -> None:
        self.say({"folder": str(self.folder), "modules": [], "ports": 2})
        assert len(self.hear()["ports"]) == 2
        rank = {"argv": [sys.executable, "-c", program], "environment": {"MINE": "1"}, "unset": ["GONE"]}
        self.say({"folder": str(self.folder), "processes": [rank], "rank_table": None, "limit_s": limit_s, **more})

    def end(self) -> "tuple[int, str]":
        """End what it hears; return its exit code and its last words."""
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors.strip()


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[Part]":
    monkeypatch.setenv("GONE", "1")
    part = Part(tmp_path)
    yield part
    part.process.kill()
    part.process.wait()


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_what_a_rank_marks_is_passed_on_and_a_line_reaches_it(part: Part) -> None:
    part.begin(READY + "print('ascendrun-pair ' + input(), flush=True); input()", rank_table="{}")
    assert part.hear() == {"ready": True}
    assert (part.folder / "rank_table.json").read_text() == "{}"
    part.say("go")
    assert part.hear() == "go"
    assert part.end() == (0, "")
    assert not part.folder.exists()


def test_the_end_of_the_line_ends_the_rank_and_what_it_started(part: Part) -> None:
    program = (
        "import subprocess\nprint('ascendrun-pair %d' % subprocess.Popen(['sleep', '600']).pid, flush=True)\ninput()"
    )
    part.begin(program)
    pid = part.hear()
    assert part.end() == (0, "")
    wait_for(lambda: is_gone(pid))
    assert not part.folder.exists()


def test_a_supervisor_of_a_pair_that_is_told_to_end_ends_its_rank(part: Part) -> None:
    part.begin("import os\nprint('ascendrun-pair %d' % os.getpid(), flush=True)\ninput()")
    pid = part.hear()
    part.process.terminate()
    assert part.process.wait(30) == 1
    assert is_gone(pid)
    assert not part.folder.exists()


def test_a_killed_one_takes_its_rank_along(part: Part) -> None:
    part.begin("import os\nprint('ascendrun-pair %d' % os.getpid(), flush=True)\ninput()")
    pid = part.hear()
    part.process.kill()
    wait_for(lambda: is_gone(pid))


@pytest.mark.parametrize(
    ("program", "limit_s", "words"),
    [
        ("raise ValueError('no peer')", 30.0, "ValueError: no peer"),
        ("import sys; print('[WARNING] Error of no account', file=sys.stderr); sys.exit('odd')", 30.0, "odd"),
        ("import sys; sys.exit(7)", 30.0, "the rank ended with exit code 7"),
        ("input()", 0.5, "the rank took too long"),
    ],
)
def test_a_rank_that_tells_nothing_is_told_of_in_one_line(part: Part, program: str, limit_s: float, words: str) -> None:
    part.begin(program, limit_s)
    assert part.process.wait(30) == 1
    assert part.end() == (1, words)
    assert not part.folder.exists()


def test_variables_are_set_and_unset_for_the_rank(part: Part) -> None:
    told = "json.dumps([os.environ['MINE'], 'GONE' in os.environ])"
    part.begin(f"import json, os; print('ascendrun-pair ' + {told}, flush=True); input()")
    assert part.hear() == ["1", False]
    part.end()
