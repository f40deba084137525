"""The job files that come with ascendrun, and those of the user."""

from __future__ import annotations

from pathlib import Path

from orchestrator import textfiles
from orchestrator.errors import SpecError, nearest
from orchestrator.jobspec import JobSpec

_SUFFIXES = (".yaml", ".yml")
_MOST_BYTES = 64 << 10  # a job file is a page of text


def builtin_names() -> "list[str]":
    """Return the names of the jobs in `jobs/`, in alphabetical order."""
    from importlib import resources

    return sorted(
        file.name[: -len(".yaml")]
        for file in resources.files("orchestrator.jobs").iterdir()
        if file.name.endswith(".yaml")
    )


def read_text(job: str) -> "tuple[str, str]":
    """Return the text of *job*, a built-in name or a path, and what to call it in messages.

    Raises SpecError.
    """
    from importlib import resources

    if job in builtin_names():
        return resources.files("orchestrator.jobs").joinpath(f"{job}.yaml").read_text(encoding="utf-8"), job
    path = Path(job).expanduser()
    if path.suffix not in _SUFFIXES and not path.is_file():
        raise SpecError(f"no job named '{job}'{nearest(job, builtin_names())}")
    return textfiles.read_text(job, _MOST_BYTES, "job file"), job


def load(job: str) -> JobSpec:
    """Return the job of that name or in that file. Raises SpecError."""
    return JobSpec.parse(*read_text(job))
