"""Throws damaged logs at the diagnosis: no exception, no endless search. `make fuzz` tries a million inputs in all.

Each input is a log of the fault library, the healthy logs or an example of a rule, cut, joined, repeated, bit-flipped
or stuffed with what regular expressions and parsers dislike, and read in blocks of any size.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from orchestrator.diagnosis.judging import Endings, Log, explain
from orchestrator.diagnosis.places import place_of_path
from orchestrator.diagnosis.rules import Language, Rules
from orchestrator.diagnosis.scanning import Block, Scanner
from orchestrator.explain import load_rules

DATA = Path(__file__).parent / "data"
LONGEST_S = 10  # of the CPU: a search that takes longer has no end worth waiting for
NASTY = (
    b"\0", b"\r", b"\r\n", b"\n", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[31m", b"(" * 300, b"[" * 300, b"|" * 500,
    b" " * 500, b"9" * 400, b"rank[99999999999999999999]", b"2025-99-99-99:99:99.999.999", b"==> x <==", b"rank 3:",
    b"\xe9\x94\x99", b"Traceback (most recent call last):\n", b'  File "x", line 1, in y\n', b"EI0006", b"507054",
    b"tag[", b"error code is ",
)  # fmt: skip


def seeds(rules: Rules) -> "list[bytes]":
    """Return whole logs and single lines to begin with."""
    logs = [path.read_bytes() for folder in ("faults", "healthy") for path in sorted((DATA / folder).iterdir())]
    return [log[:4096] for log in logs] + [example.encode() for rule in rules for example in rule.example]


def mutated(seed: bytes, rng: random.Random, pool: "list[bytes]") -> bytes:
    """Return *seed* after a few random damages."""
    data = bytearray(seed)
    for _ in range(rng.randint(1, 6)):
        start = rng.randint(0, len(data))
        end = min(len(data), start + rng.choice((1, 3, 20, 300)))
        kind = rng.randrange(7)
        if kind == 0:
            del data[start:end]
        elif kind == 1:
            data[start:start] = rng.choice(NASTY)
        elif kind == 2:
            data[start:start] = bytes(data[start:end]) * rng.choice((2, 5, 40))
        elif kind == 3:
            data[start:end] = bytes(rng.randrange(256) for _ in range(end - start))
        elif kind == 4:
            other = rng.choice(pool)
            data[start:start] = other[: rng.randint(0, len(other))]
        elif kind == 5 and data:
            data[start % len(data)] ^= 1 << rng.randrange(8)
        else:
            data = data[:end]
    return bytes(data[: 1 << 16])


class Trial:
    """The diagnosis as a function of bytes and an accident."""

    def __init__(self) -> None:
        self.rules = load_rules()
        self.scanner = Scanner(self.rules)
        self.pool = seeds(self.rules)

    def __call__(self, data: bytes, rng: random.Random) -> None:
        size = rng.choice((7, 100, 4096, 1 << 20))
        blocks = [Block(data[at : at + size], rng.random() < 0.7) for at in range(0, len(data), size)]
        name = rng.choice(("worker_1.log", "rank_0/log.txt", "debug/plog/plog-71_20251121012000001.log", "all.txt"))
        logs = [Log(name, place_of_path(name), self.scanner.scan(blocks))]
        if rng.random() < 0.5:
            other = rng.choice(self.pool)
            logs.append(Log("worker_2.log", place_of_path("worker_2.log"), self.scanner.scan([Block(other)])))
        told = explain(logs, self.rules, Endings(rng.choice((None, 0, 1)), {0: "exit code 1"}, {1: rng.randrange(16)}))
        for language in Language:
            told.words(language)
        assert all(one.offset <= len(data) or one.log == "worker_2.log" for one in told.evidence)


def too_long(*_: object) -> None:
    raise TimeoutError(f"a search went on for {LONGEST_S} s")


def run(count: int, seed: int, tell: "Callable[[str], None]") -> int:
    """Try *count* inputs; return how many failed."""
    trial, rng, failed, began = Trial(), random.Random(seed), 0, time.monotonic()
    signal.signal(signal.SIGVTALRM, too_long)
    for number in range(1, count + 1):
        data = mutated(rng.choice(trial.pool), rng, trial.pool)
        signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST_S)
        try:
            trial(data, rng)
        except Exception:
            failed += 1
            tell(f"input {number} (seed {seed}): {data!r:.2000}\n{traceback.format_exc()}")
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if number % 50_000 == 0:
            tell(f"{number:,} inputs, {failed} failed, {number / (time.monotonic() - began):,.0f}/s")
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    from tests import guided, probefuzz  # which need what stands above

    searches = [run, probefuzz.run, *([guided.run] if guided.HAS_ATHERIS else [])]
    failures = [search(-(-arguments.inputs // len(searches)), arguments.seed, print) for search in searches]
    if not guided.HAS_ATHERIS:
        print("without Atheris, which is not installed, nothing was guided by coverage")
    sys.exit(1 if any(failures) else 0)
