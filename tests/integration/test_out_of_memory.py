"""A rank that the kernel kills because its cgroup may not have more memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Cli, wait_for

MOST_BYTES = 256 << 20
EATS = "blocks = []\nwhile True:\n    blocks.append(b'x' * (1 << 20))\n"
LIMITS = ("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")  # of version 2, and of 1


@pytest.fixture
def small_group() -> "Iterator[Path]":
    """A cgroup whose processes may have 256 MiB of memory."""
    for root, limit in LIMITS:
        group = Path(root, f"ascendrun-test-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / limit).exists():
                (group / limit).write_text(str(MOST_BYTES))
                yield group
                wait_for(lambda processes=group / "cgroup.procs": not processes.read_text())
                return
        finally:
            group.rmdir()
    pytest.skip("no cgroup that limits memory can be made here")


def test_a_rank_that_is_killed_for_want_of_memory_is_told_to_be(cli: Cli, small_group: Path) -> None:
    (cli.folder / "eat.py").write_text(EATS)
    words = ["launch", "--devices", "1", "--name", "r", "--", sys.executable, "-S", "eat.py"]
    told = cli(*words, code=1, preexec_fn=lambda: (small_group / "cgroup.procs").write_text("0"))
    assert "verdict: out_of_memory, certain: rank 0, SIGKILL: out of memory" in told.stdout
    (event,) = [event for event in cli.events("r") if event["kind"] == "out_of_memory"]
    assert (event["rank"], event["data"]["by"]) == (0, "cgroup")
