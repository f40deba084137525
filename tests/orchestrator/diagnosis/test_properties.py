"""Whatever a log holds, reading it ends and raises nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from orchestrator.diagnosis import places, tracebacks
from orchestrator.diagnosis.judging import Log, explain
from tests import fuzz
from tests.orchestrator.diagnosis.conftest import Scans

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
WORDS = some.sampled_from([*(word.decode("utf-8", "replace") for word in fuzz.NASTY), "rror", "ERR", "File", ": "])


@FEW
@given(some.lists(some.one_of(some.binary(max_size=60), WORDS.map(str.encode)), max_size=60), some.integers(1, 5000))
def test_any_bytes_can_be_scanned_and_explained(scan: Scans, parts: "list[bytes]", block_bytes: int) -> None:
    data = b"".join(parts)
    found = scan(data, block_bytes=block_bytes)
    assert found.size_bytes == len(data)
    assert all(0 <= one.offset <= len(data) for one in found.sightings)
    told = explain([Log("worker_0.log", places.Place(rank=0), found)], scan.rules)
    assert told.known == (told.category is not None)


@FEW
@given(some.lists(some.one_of(some.text(max_size=40), WORDS), max_size=30).map("".join))
def test_any_text_is_a_line_a_path_and_a_traceback(text: str) -> None:
    assert places.place_of_path(text).rank is None or places.place_of_path(text).rank >= 0
    assert places.rank_of(text) is None or places.rank_of(text) >= 0
    assert places.pid_of(text) is None or places.pid_of(text) >= 0
    assert places.time_of(text) is None or places.time_of(text) >= 0
    assert places.is_quiet(text) in (True, False)
    told = tracebacks.read([f"{tracebacks.HEAD}:", *text.splitlines()])
    assert told is None or told.lines >= 2


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_logs_raise_nothing(seed: int) -> None:
    told: "list[str]" = []
    assert fuzz.run(300, seed, told.append) == 0, told


def test_the_mutator_would_tell_of_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: fuzz.Trial, data: bytes, rng: random.Random) -> None:
        raise ValueError("planted")

    monkeypatch.setattr(fuzz.Trial, "__call__", broken)
    told: "list[str]" = []
    assert fuzz.run(3, 1, told.append) == 3
    assert "planted" in told[0]
