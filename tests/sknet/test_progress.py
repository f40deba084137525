from __future__ import annotations

import json
import threading
from pathlib import Path

from sknet.progress import Progress


def test_each_line_is_one_json_object_and_no_number_that_json_lacks(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    progress = Progress(str(path))
    progress.phase("start")
    progress.write("step", loss=float("nan"), lr=0.1, step=3)
    progress.write("step", loss=float("inf"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [
        {"kind": "phase", "phase": "start"},
        {"kind": "step", "loss": None, "lr": 0.1, "step": 3},
        {"kind": "step", "loss": None},
    ]


def test_a_file_that_cannot_be_written_breaks_nothing(tmp_path: Path) -> None:
    Progress(str(tmp_path / "no" / "such" / "folder")).phase("start")
    Progress("/dev/full").phase("start")
    Progress(None).phase("start")
    Progress("").phase("start")
    assert list(tmp_path.iterdir()) == []


def test_lines_of_several_writers_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"

    def write() -> None:
        progress = Progress(str(path))
        for step in range(200):
            progress.write("step", step=step, text="x" * 300)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(json.loads(line)["step"] for line in path.read_text().splitlines()) == sorted(list(range(200)) * 4)
