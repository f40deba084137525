"""Finding: what a check has to say about a file, a host or a run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How much a finding matters."""

    ERROR = "error"  # it will not work
    WARNING = "warning"  # it may not work, or not everywhere


@dataclass(frozen=True)
class Finding:
    """One judgement: what is wrong, where, and what to do about it."""

    code: str  # short and stable, for scripts: rank-id-missing
    severity: Severity
    where: str  # FILE:LINE:COLUMN, a host, or what else was looked at
    problem: str
    remedy: str
