"""A library of jobs of several ranks that failed: each file has the logs of one job, and what is true of it.

Some were written after recorded signatures, in the layouts of msrun, torchrun, shell scripts, CANN's plog folders and
one common file; some are the logs of runs that were made to fail on the CPU backend.
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator import explain

FOLDER = Path(__file__).resolve().parents[2] / "data" / "faults"
LEAST = 0.95


@dataclass(frozen=True)
class Fault:
    truth: "dict[str, str]"
    logs: "dict[str, str]"  # by path

    @classmethod
    def read(cls, path: Path) -> "Fault":
        head, *parts = re.split(r"^=== (.+)\n", path.read_text(encoding="utf-8"), flags=re.M)
        truth = dict(line[2:].split(": ", 1) for line in head.splitlines())
        return cls(truth, dict(zip(parts[::2], parts[1::2])))

    def write(self, folder: Path, *, packed: bool) -> None:
        for name, text in self.logs.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if packed:
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(text.encode()))
            else:
                path.write_text(text, encoding="utf-8")


def mistakes(fault: Fault, folder: Path) -> "list[str]":
    """Return what `explain` says of the logs in *folder* that is not true of the fault."""
    told = explain.explain_paths([str(folder)]).explanation
    code = told.rule.code if told.rule is not None and told.known else "unknown"
    first = "none" if told.first_rank is None else str(told.first_rank)
    said = {
        "code": code,
        "category": told.category.value if told.category else "unknown",
        "retriable": {True: "yes", False: "no", None: "unknown"}[told.retriable],
        "first rank": first if fault.truth["first rank"] != "any" else "any",
    }
    if fault.truth["code"] == "unknown":
        del said["first rank"]
    return [f"{key} {value}, not {fault.truth[key]}" for key, value in said.items() if value != fault.truth[key]]


def test_the_library_is_large_and_has_all_kinds() -> None:
    faults = [Fault.read(path) for path in sorted(FOLDER.glob("*.txt"))]
    assert sum(len(fault.logs) > 1 for fault in faults) >= 60
    assert sum(fault.truth["source"].startswith("a run") for fault in faults) >= 15
    assert sum(fault.truth["code"] == "unknown" for fault in faults) >= 5
    assert len({fault.truth["code"] for fault in faults}) >= 50


def test_root_cause_first_rank_and_retriable_are_right_in_nearly_all_faults(tmp_path: Path) -> None:
    wrong, count = [], 0
    for number, path in enumerate(sorted(FOLDER.glob("*.txt"))):
        fault = Fault.read(path)
        folder = tmp_path / path.stem
        fault.write(folder, packed=number % 3 == 0)
        found = mistakes(fault, folder)
        count += 1
        wrong += [f"{path.stem}: {'; '.join(found)}"] * bool(found)
    assert len(wrong) <= (1 - LEAST) * count, "\n".join(wrong)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("unknown_*.txt")), ids=lambda path: path.stem)
def test_logs_that_no_rule_covers_are_called_unknown(path: Path, tmp_path: Path) -> None:
    fault = Fault.read(path)
    fault.write(tmp_path, packed=False)
    assert mistakes(fault, tmp_path) == []
