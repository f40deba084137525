"""How long `explain` takes over much log of many ranks, and how much memory, beside one `grep` of it for five words.

The logs are written anew in a folder of this machine: healthy lines of CANN, HCCL, MindSpore and PyTorch, of which no
two are equal, a few warnings, and in one rank the error that counts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = ("Error", "ERROR", "Traceback", "failed", "timeout")
CAUSE = (
    "[ERROR] RUNTIME(5021,python):2025-11-21-01:20:01.624.966 [stream.cc:1041]5210 GetError:ErrCode=507054, "
    "desc=[hbm Multi-bit ECC error]\n"
)
ECHO = (
    "EI0002: The wait execution of the Notify register times out. "
    "Reason: The Notify register has not received the Notify record from remote rank [{rank}].\n"
)


def healthy_lines(seed: int, count: int) -> str:
    """Return *count* lines, as a rank that trains writes them."""
    rng = random.Random(seed)
    lines = []
    for step in range(count):
        clock = f"{step // 3600 % 24:02}:{step // 60 % 60:02}:{step % 60:02}"
        at = f"2025-11-21-{clock}.{rng.randrange(1000):03}.{rng.randrange(1000):03}"
        kind = rng.random()
        if kind < 0.3:
            lines.append(
                f"[INFO] HCCL(5021,python):{at} [hccl_opbase_atrace_info.cc:56] [5210]Entry-HcclAllReduce: "
                f"tag[AllReduce_10.0.0.11%eth0_60000_0_1741318944927847], sendBuf[0x{rng.randrange(1 << 44):x}], "
                f"recvBuf[0x{rng.randrange(1 << 44):x}], count[{rng.randrange(1 << 24)}], dataType[float32], op[sum]"
            )
        elif kind < 0.6:
            lines.append(
                f"epoch: {step // 195} step: {step % 195}, loss is {rng.random() * 7:.6f}, lr: {rng.random():.7f}, "
                f"per_step_time: {rng.random() * 400:.3f} ms"
            )
        elif kind < 0.85:
            lines.append(
                f"[{at[:10]} {clock},{rng.randrange(1000):03}] [INFO] [trainer.py:{rng.randrange(900)}:log] "
                f"iteration {step}/ 500000 | consumed samples: {step * 512} | elapsed time per iteration (ms): "
                f"{rng.random() * 900:.1f} | lm loss: {rng.random() * 9:.6E} | grad norm: {rng.random():.3f}"
            )
        elif kind < 0.97:
            lines.append(
                f"[DEBUG] RUNTIME(5021,python):{at} [stream.cc:{rng.randrange(999)}]5210 SubmitTask: "
                f"stream_id={rng.randrange(64)}, task_id={rng.randrange(65536)}, retCode=0x0"
            )
        else:
            lines.append(
                f"[WARNING] MD(5021,ffff8d7b3f10,python):{at} [mindspore/ccsrc/minddata/dataset/engine/perf/"
                f"profiling.cc:{rng.randrange(999)}] the queue holds {rng.randrange(64)} rows, failed fetches: 0"
            )
    return "\n".join(lines) + "\n"


def write_logs(folder: Path, size_bytes: int, ranks: int) -> None:
    pieces = [healthy_lines(seed, 8000).encode() for seed in range(4)]
    for rank in range(ranks):
        with (folder / f"worker_{rank}.log").open("wb") as file:
            written, turn = 0, rank
            while written < size_bytes // ranks:
                written += file.write(pieces[turn % len(pieces)])
                turn += 1
            file.write((CAUSE if rank == ranks // 2 else ECHO.format(rank=ranks // 2)).encode())


def measure(folder: Path) -> "dict[str, float]":
    """Return seconds and peak memory of `ascendrun explain` over *folder* on one CPU, and what it found."""
    code = (
        "import json, resource, sys, time; began = time.perf_counter(); "
        "from orchestrator.explain import explain_paths; report = explain_paths(sys.argv[1:]); "
        "made = report.explanation; print(json.dumps({'seconds': time.perf_counter() - began, "
        "'cpu_s': time.process_time(), "
        "'memory_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 'bytes': report.size_bytes, "
        "'code': made.rule.code if made.rule else None, 'first_rank': made.first_rank}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
    )
    return dict(json.loads(done.stdout))


def grep(folder: Path) -> float:
    began = time.perf_counter()
    words = [argument for word in WORDS for argument in ("-e", word)]
    subprocess.run(
        ["grep", "-r", "-c", "-F", *words, str(folder)], stdout=subprocess.PIPE, check=True
    )  # of /dev/null grep knows that nobody reads it
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_logs(folder, int(arguments.gigabytes * 1e9), arguments.ranks)
        for _ in range(arguments.rounds):
            told, grep_s = measure(folder), grep(folder)
            assert (told["code"], told["first_rank"]) == ("hbm-multi-bit-ecc", arguments.ranks // 2), told
            print(
                f"{told['bytes'] / 1e9:.2f} GB of {arguments.ranks} ranks: explain {told['seconds']:.1f} s "
                f"({told['cpu_s']:.1f} s of its CPU), "
                f"{told['memory_mib']:.0f} MiB; grep for {len(WORDS)} words {grep_s:.1f} s "
                f"(x {told['seconds'] / grep_s:.1f})"
            )
    print(f"this process itself: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
