"""Coverage-guided fuzzing of all that reads text from outside: each target lets one reader read any bytes.

`make fuzz` runs every target under Atheris, in a process of its own, with seeds from the tests' own data. What a reader
may raise, its docstring says; all else, and no answer within LONGEST_S, is a find.
"""

from __future__ import annotations

import argparse
import gzip
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

HAS_ATHERIS = find_spec("atheris") is not None
DATA = Path(__file__).parent / "data"
LONGEST = 4096  # bytes of an input
LONGEST_S = 10
Target = Callable[[bytes], None]


def seeds() -> "list[bytes]":
    """Return what the targets begin with."""
    from tests import fuzz, probefuzz

    tar, packed_up = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive, zipfile.ZipFile(packed_up, "w") as other:
        archive.addfile(tarfile.TarInfo("rank_0.log"))
        other.writestr("rank_0.log", "step 1")
    archives = tar.getvalue(), gzip.compress(tar.getvalue()), packed_up.getvalue()
    yaml = b"hosts:\n  - {name: node1, address: 10.0.0.1, slots: 2}\n", b"module: train\nconfig: {epochs: 2}\n"
    others = b"10.0.0.1 slots=8\nnode[1-4]:2\n", b'{"seq": 1, "t": 1.5, "kind": "step", "rank": 0, "data": {}}\n'
    tables = [path.read_bytes() for path in sorted((DATA / "rank_tables").rglob("*.json"))]
    answers = [text.encode("utf-8", "replace") for text in probefuzz.SEEDS]
    return [*fuzz.seeds(fuzz.load_rules()), *answers, *tables, *yaml, *others, *archives, *fuzz.NASTY]


def targets() -> "dict[str, Target]":
    """Return the readers by name; imported here, where Atheris watches."""
    from orchestrator import explain, packed
    from orchestrator.clues import clue_of
    from orchestrator.diagnosis import judging, places, scanning, tracebacks
    from orchestrator.errors import AscendrunError
    from orchestrator.hostfiles import parse_lines, parse_target
    from orchestrator.inventory import Inventory
    from orchestrator.jobspec import JobSpec
    from orchestrator.ranktable.reading import read
    from orchestrator.supervisor.events import Event
    from orchestrator.supervisor.hostplan import HostPlan
    from tests import probefuzz

    rules = explain.load_rules()
    scanner = scanning.Scanner(rules)

    def logs(data: bytes) -> None:
        blocks = [scanning.Block(data[at : at + 700], at % 1400 == 0) for at in range(0, len(data), 700)]
        found = [judging.Log("rank_0/a.log", places.place_of_path("rank_0/a.log"), scanner.scan(blocks))]
        found.append(judging.Log("b.log", places.Place(), scanner.scan([scanning.Block(data[::-1])])))
        told = judging.explain(found, rules, judging.Endings(0, {0: "exit code 1"}, {1: 9}))
        assert told.known == (told.category is not None)

    def lines(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        for read_one in (places.place_of_path, places.rank_of, places.pid_of, places.time_of, places.is_quiet):
            read_one(text)
        tracebacks.alone(text)
        head, _, rest = text.partition("\n")
        tracebacks.read([f"{head}{tracebacks.HEAD}:", *rest.split("\n")])
        clue_of(text.splitlines(), code=1)

    def answers(data: bytes) -> None:
        probefuzz.read_all(data.decode("utf-8", "replace"))

    def settings(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        for parse in (Inventory.parse, JobSpec.parse, lambda *words: list(parse_lines(*words))):
            try:
                parse(text, "file")
            except AscendrunError:
                pass
        try:
            parse_target(text)
        except AscendrunError:
            pass

    def tables(data: bytes) -> None:
        read(data.decode("utf-8", "replace"), "hccl.json")

    def records(data: bytes) -> None:
        for line in data.split(b"\n"):
            event = Event.from_line(line)
            assert event is None or Event.from_line(event.to_line()) is not None
        try:
            HostPlan.from_json(data.decode("utf-8", "replace"))
        except (ValueError, KeyError, TypeError):
            pass  # as its docstring says

    folder = tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)

    def files(data: bytes) -> None:
        path = Path(folder.name, "x.log")
        path.write_bytes(data)
        try:
            for piece in packed.pieces(path):
                while piece.read(1 << 16):
                    pass
        except packed.DAMAGED:
            pass

    every = (logs, lines, answers, settings, tables, records, files)
    return {target.__name__: target for target in every}


def run(inputs: int, seed: int, tell: "Callable[[str], None]") -> int:
    """Give each target its share of *inputs*, one after another; return how many of the targets failed."""
    failed = 0
    names = list(targets())
    for name in names:
        share = str(-(-inputs // len(names)))
        done = subprocess.run([sys.executable, "-m", "tests.guided", name, "--inputs", share, "--seed", str(seed)])
        tell(f"{name}: {'failed' if done.returncode else f'{int(share):,} inputs'}")
        failed += done.returncode != 0
    return failed


def fuzz_one(name: str, inputs: int, seed: int) -> None:
    """Run one target under Atheris, which ends this process."""
    import atheris

    with atheris.instrument_imports(include=["orchestrator"]):
        target = targets()[name]
    corpus = Path(tempfile.mkdtemp(prefix="corpus-"))
    for number, data in enumerate(seeds()):
        (corpus / str(number)).write_bytes(data[:LONGEST])
    words = [f"-runs={inputs}", f"-seed={seed}", f"-max_len={LONGEST}", f"-timeout={LONGEST_S}", "-rss_limit_mb=1024"]
    atheris.Setup([sys.argv[0], *words, "-print_final_stats=1", f"-artifact_prefix={corpus}/", str(corpus)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    fuzz_one(arguments.target, arguments.inputs, arguments.seed)
