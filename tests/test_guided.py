"""All that reads text from outside, on a few thousand damaged inputs of each kind; `make fuzz` tries a million."""

from __future__ import annotations

import random
import re
import subprocess
import sys

import pytest

from tests import fuzz, guided

TARGETS = guided.targets()
SEEDS = guided.seeds()


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_takes_any_bytes(name: str) -> None:
    rng = random.Random(name)
    for number in range(600):
        TARGETS[name](fuzz.mutated(rng.choice(SEEDS), rng, SEEDS)[: guided.LONGEST if number else None])


@pytest.mark.skipif(not guided.HAS_ATHERIS, reason="Atheris is not installed")
def test_atheris_watches_the_readers_and_counts_what_it_tries() -> None:
    words = [sys.executable, "-m", "tests.guided", "tables", "--inputs", "1000"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "stat::number_of_executed_units: 1000" in done.stderr
    assert re.search(r"stat::new_units_added: +[1-9]", done.stderr)  # inputs that reach code no other did
