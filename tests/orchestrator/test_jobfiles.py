from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import jobfiles
from orchestrator.errors import SpecError


def test_the_jobs_that_come_with_ascendrun_are_known_by_name() -> None:
    assert {"sknet50", "sknet50-cpu"} <= set(jobfiles.builtin_names())
    assert jobfiles.load("sknet50").module == "sknet.train"


def test_a_job_file_is_read_from_its_path(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\ncommand: [ls]\n", encoding="utf-8")
    assert jobfiles.load(str(tmp_path / "mine.yaml")).name == "mine"


@pytest.mark.parametrize(("job", "told"), [("sknet5", "did you mean 'sknet50'?"), ("zzzzzz", "known: ")])
def test_an_unknown_job_names_the_nearest_one(job: str, told: str) -> None:
    with pytest.raises(SpecError, match=f"no job named '{job}'") as caught:
        jobfiles.load(job)
    assert told in str(caught.value)


def test_a_job_file_that_is_not_there_is_told_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"gone\.yaml: No such file"):
        jobfiles.load(str(tmp_path / "gone.yaml"))


def test_a_folder_is_no_job_file(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(SpecError, match="Is a directory"):
        jobfiles.load(str(tmp_path / "folder.yaml"))


@pytest.mark.parametrize(("content", "told"), [(b"\xff\xfe", "not UTF-8"), (b"#" * (2 << 20), "larger than 64 KiB")])
def test_a_file_that_is_no_text_or_no_page_of_it_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "job.yaml").write_bytes(content)
    with pytest.raises(SpecError, match=told):
        jobfiles.load(str(tmp_path / "job.yaml"))
