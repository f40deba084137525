"""A rank of an all-reduce between two hosts, for `doctor --collective`: begun here, told of, and gone with who asked.

Runs on the hosts, from the archive that `bundle.supervisor_archive` makes. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.supervisor import serving
from orchestrator.supervisor.linux import die_with_parent

MARK = b"ascendrun-pair "  # before what a rank tells us
RANK = "rank.py"  # in the folder
_ELEMENTS = 1 << 20  # of float32
_BLOCK = 1 << 16
_MOST_LETTERS = 300
# What a rank runs. Both of a pair take the same number of turns: what rank 0 found for the first counts for both.
PROGRAM = f"""
import json, os, sys, time
import numpy as np
import mindspore as ms
from mindspore import nn, ops
from mindspore.communication import init

class Sum(nn.Cell):
    def __init__(self):
        super().__init__()
        self.reduce = ops.AllReduce()

    def construct(self, x):
        return self.reduce(x)

def tell(**what):
    sys.stdout.write("\\n{MARK.decode()}" + json.dumps(what) + "\\n")
    sys.stdout.flush()

def best(tensor, turns):
    times = []
    for _ in range(turns):
        began = time.perf_counter()
        total = float(reduce(tensor).asnumpy()[0])
        times.append(time.perf_counter() - began)
        if total != 2:
            sys.exit(f"the sum of 1 and 1 over both hosts is {{total}}")
    return min(times)

if os.environ["ASCENDRUN_BACKEND"] == "ascend":
    ms.set_context(mode=ms.GRAPH_MODE, device_target="Ascend", device_id=int(os.environ["DEVICE_ID"]))
else:
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
init()
reduce = Sum()
small, large = (ms.Tensor(np.ones(size, np.float32)) for size in (1, {_ELEMENTS}))
best(small, 1)
best(large, 1)
tell(ready=True)
sys.stdin.readline()
first_s = best(large, 1)
both_s = float(reduce(ms.Tensor(np.array([first_s], np.float32))).asnumpy()[0])
turns = max(1, min(10, int(4 / both_s)))
tell(small_s=best(small, 5 * turns), large_s=best(large, turns))
sys.stdin.readline()
"""


def take_part(told: "Mapping[str, Any]") -> None:
    """Run one rank, and the scheduler where it is ours; say what it tells, and at last leave nothing behind.

    *told*: folder (made and removed), processes (the rank's first: argv, environment, unset), rank_table (or None),
    limit_s. A line of standard input is passed on to the rank; its end is the end.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(told["folder"])
    folder.mkdir(mode=0o700, parents=True)
    running: "list[subprocess.Popen[bytes]]" = []
    try:
        if told.get("rank_table"):
            (folder / "rank_table.json").write_text(told["rank_table"])
        (folder / RANK).write_text(PROGRAM)  # MindSpore compiles what it finds in files only
        for index, process in enumerate(told["processes"]):
            with open(folder / f"{index}.log", "wb") as log:
                environment = {**os.environ, **process["environment"]}
                running.append(
                    subprocess.Popen(
                        process["argv"],
                        cwd=folder,
                        env={name: value for name, value in environment.items() if name not in process["unset"]},
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE if index == 0 else log,
                        stderr=log,
                        start_new_session=True,
                        preexec_fn=die_with_parent,
                    )
                )
        _pass_on(running[0], folder / "0.log", time.monotonic() + float(told["limit_s"]))
    finally:
        for one in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)
            one.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _pass_on(rank: "subprocess.Popen[bytes]", log: Path, deadline: float) -> None:
    """Pass on what both sides say, until ours ends, the rank does, or time is over."""
    assert rank.stdin and rank.stdout
    rest = b""
    while (left_s := deadline - time.monotonic()) > 0:
        readable, _, _ = select.select([0, rank.stdout.fileno()], [], [], left_s)
        if 0 in readable:
            said = os.read(0, _BLOCK)
            if not said:
                return  # whoever asked has gone
            with contextlib.suppress(OSError):
                os.write(rank.stdin.fileno(), said)
        if rank.stdout.fileno() in readable:
            block = os.read(rank.stdout.fileno(), _BLOCK)
            if not block:
                code = rank.wait()
                raise serving.Refused(_last_words(log) or f"the rank ended with exit code {code}")
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                if line.startswith(MARK):
                    serving.say(line[len(MARK) :].decode() + "\n")
    raise serving.Refused("the rank took too long")


def _last_words(log: Path) -> str:
    """Return what a rank said at last of an error, or at all."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip(" \t-")]
    errors = [line for line in lines if "Error" in line and "[WARNING]" not in line]
    return (errors or lines or [""])[-1][-_MOST_LETTERS:]
