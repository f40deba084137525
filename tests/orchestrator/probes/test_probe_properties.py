"""Whatever a tool prints, reading it ends, raises nothing and keeps the text."""

from __future__ import annotations

import random
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from tests import probefuzz
from tests.orchestrator.probes.answers import processes, table

FEW = settings(max_examples=60, deadline=None)
WORDS = some.sampled_from([*probefuzz.NASTY, *probefuzz.SEEDS, "|", "\n", " ", "0 / 0", "NPU ID : 1\n"])


@FEW
@given(some.lists(some.one_of(some.text(max_size=40), WORDS), max_size=30).map("".join))
def test_any_text_can_be_read(text: str) -> None:
    probefuzz.read_all(text)


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_answers_raise_nothing(seed: int) -> None:
    told: "list[str]" = []
    assert probefuzz.run(1500, seed, told.append) == 0, told


@pytest.mark.parametrize(
    "unit", ["| 0 / 0 |", "0 ", "9", " : ", "[devid 0]", "a_0=", "| ", "tls switch[", "\t:\n", "1 /"]
)
def test_an_endless_answer_is_read_to_its_end(unit: str) -> None:
    signal.signal(signal.SIGVTALRM, probefuzz.too_long)
    # Which only time that grows with the square of the length would take.
    signal.setitimer(signal.ITIMER_VIRTUAL, probefuzz.LONGEST_S)
    try:
        probefuzz.read_all(unit * 60_000)
        probefuzz.read_all((unit * 100 + "\n") * 300)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def test_what_was_read_of_a_damaged_table_stood_in_it() -> None:
    rng = random.Random(5)
    whole = table([("3 910B2 | OK | 91.5 41 2 / 8", "0 | 0000:81:00.0 | 12 7 / 9 3402/ 65536")]) + processes(
        "3 0 | 4711 | python3 | 19502"
    )
    for _ in range(400):
        text = probefuzz.mutated(whole, rng)
        told = probefuzz.parse_info(text)
        shown = [figure for one in (*told.devices, *told.processes) for figure in vars(one).values()]
        assert all(str(figure).replace(".0", "") in text for figure in shown if isinstance(figure, int)), text
