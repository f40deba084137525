"""Logs that users of Ascend machines published, each with its truth; they lie beside the project, if at all."""

from __future__ import annotations

import json

import pytest

from orchestrator.diagnosis.judging import Log, explain
from orchestrator.diagnosis.places import Place, place_of_path
from tests.conftest import SHARED
from tests.orchestrator.diagnosis.conftest import Scans

FOLDER = SHARED / "ascend" / "captures" / "logs"
AS_WE_SAY = {"config": "configuration", "user-code": "user code"}
LEAST = 0.9
# Healthy, or an inner error without a word on its cause.
SAY_NOTHING = ("ms_scheduler_ok.log", "msrun_console.txt", "ms_507011_worker.log")


pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the captures in ../shared are not there")


def test_most_captures_are_explained_with_the_right_category_retriable_and_rank(scan: Scans) -> None:
    wrong, counted, misplaced, placed = [], 0, [], 0
    for truth_file in sorted(FOLDER.glob("*.json")):
        truth = json.loads(truth_file.read_text())
        log = truth_file.with_suffix(".log")
        # What the name of a file told was lost when it was cut out of its source.
        place = Place(place_of_path(truth["source"].partition("#")[0]).rank)
        told = explain([Log(log.name, place, scan(log.read_bytes()))], scan.rules)
        category = told.category.value if told.category else None
        right = category == AS_WE_SAY.get(truth["category"], truth["category"]) and (
            truth["retriable"] is None or told.retriable == truth["retriable"]
        )
        if truth["confidence"] != "low":
            counted += 1
            wrong += [f"{log.name}: {category}, {told.retriable}: {told.rule.code if told.rule else None}"] * (
                not right
            )
            if isinstance(truth["first_failing_rank"], int):
                placed += 1
                named = truth["first_failing_rank"] in (told.first_rank, *told.suspects)
                misplaced += [f"{log.name}: rank {told.first_rank}"] * (not named)
    assert counted >= 20
    assert placed >= 7
    assert len(misplaced) <= 1, misplaced
    assert len(wrong) <= (1 - LEAST) * counted, "\n".join(wrong)


def test_samples_of_one_error_each_are_known(scan: Scans) -> None:
    folder = SHARED / "ascend" / "samples" / "logs"
    for log in sorted(folder.iterdir()):
        told = explain([Log(log.name, Place(), scan(log.read_bytes()))], scan.rules)
        tells_nothing = log.name.startswith("train_loss") or log.name in SAY_NOTHING
        assert told.known != tells_nothing, f"{log.name}: {told}"
