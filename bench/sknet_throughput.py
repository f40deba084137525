"""How many pictures a second SKNet50 trains on with this machine's CPU: msrun, ascendrun and PyTorch, side by side.

The same program and the same made-up pictures under `msrun`, under `ascendrun launch --` and as the job `sknet50-cpu`,
and the same net in PyTorch (torch_sknet.py, in both of its memory formats), in turn, several rounds. The first steps
(compile, warm-up) are left out. Then: how much faster than that the reader of pictures is, and how long a first and a
second start of the job take to their first step, which is what the compile cache is for. `--profile` says instead where
the time of MindSpore's step goes.

The CPU is named because much depends on it: on one with AVX-512 MindSpore 2.x falls back to a reference convolution,
from which ascendrun keeps it; on one without there is nothing to be kept from.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
WARM_UP_STEPS = 2
READING_S = 3.0  # how long the reader is watched

RANK = """
import os, sys
os.environ["ASCENDRUN_PROGRESS"] = os.path.join(os.environ["BENCH_STEPS"], os.environ.get("RANK_ID", "0"))
from sknet.train import main
sys.exit(main(sys.argv[1:], os.environ))
"""
TORCH_RANK = """
import os, sys
os.environ["ASCENDRUN_PROGRESS"] = os.path.join(os.environ["BENCH_STEPS"], os.environ.get("RANK", "0"))
sys.path.insert(0, {here!r})
from torch_sknet import main
main()
"""
PROFILED = """
import os, sys
import mindspore as ms
import numpy as np
from sknet.device import choose_device
from sknet.distributed import join, world_of
from sknet.config import Config
from sknet.model import build
from sknet.step import TrainStep, momentum_optimizer
batch, side, steps = map(int, sys.argv[1:4])
choose_device("CPU", 0)
world = world_of(Config(), os.environ)
part = join(world, "CPU", os.environ)
net = build("sknet50", 10)
step = TrainStep(net, momentum_optimizer(net, 0.9, 1e-4), 1.0, world.ranks, packed=True)
step.set_train()
rng = np.random.default_rng(0)
pictures = ms.Tensor(rng.standard_normal((batch, 3, side, side)).astype(np.float32))
labels = ms.Tensor(np.arange(batch, dtype=np.int32) % 10)
for _ in range(2):
    step(pictures, labels, ms.Tensor(0.01, ms.float32)).asnumpy()
profiler = ms.profiler
run = profiler.profile(
    activities=[profiler.ProfilerActivity.CPU],
    on_trace_ready=profiler.tensorboard_trace_handler(os.path.join(os.environ["BENCH_STEPS"], str(world.rank))),
)
run.start()
for _ in range(steps):
    step(pictures, labels, ms.Tensor(0.01, ms.float32)).asnumpy()
run.stop()
part()
"""


class Bench:
    """Runs of one net size: *ranks* processes, pictures of *side* pixels, *batch* of them a rank and step."""

    def __init__(self, folder: Path, ranks: int, side: int, batch: int, steps: int, limit_s: float) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        self.ranks, self.side, self.batch, self.steps, self.limit_s = ranks, side, batch, steps, limit_s
        self.data = self.folder / "data"
        sample = ["--train", str(steps * batch * ranks), "--test", "10"]
        subprocess.run(
            [sys.executable, "-m", "sknet.sample", str(self.data), *sample], check=True, stdout=subprocess.DEVNULL
        )
        for name, text in (("rank", RANK), ("peer", TORCH_RANK.format(here=str(HERE))), ("profiled", PROFILED)):
            self.program(name).write_text(text)

    def program(self, name: str) -> Path:
        return self.folder / f"{name}.py"

    def ways(self) -> "dict[str, list[str]]":
        """Return each way to train, by its name."""
        config = {
            "image_size": self.side,
            "batch_size": self.batch,
            "epoch_size": 1,
            "warmup_epochs": 0,
            "save_checkpoint": "false",
        }
        keys = [f"--{key}={value}" for key, value in config.items()]
        words = [str(self.program("rank")), *keys, f"--dataset_path={self.data}", "--device_target=CPU"]
        workers = [f"--worker_num={self.ranks}", f"--local_worker_num={self.ranks}", "--join=True"]
        torch = [sys.executable]
        if self.ranks > 1:
            torch = [str(BIN / "torchrun"), "--standalone", f"--nproc-per-node={self.ranks}"]
        torch += [str(self.program("peer")), f"--batch={self.batch}", f"--side={self.side}", f"--steps={self.steps}"]
        return {
            "msrun": [str(BIN / "msrun"), *workers, "--master_port=18128", *words],
            "ascendrun": [*self.launch(), "--", sys.executable, *words],
            "ascendrun, the job": [*self.launch(), *self.job(**config), "sknet50-cpu"],
            "PyTorch": torch,
            "PyTorch, channels last": [*torch, "--channels-last"],
        }

    def launch(self) -> "list[str]":
        return [str(BIN / "ascendrun"), "launch", "--devices", str(self.ranks), "--backend", "cpu"]

    def job(self, **config: object) -> "list[str]":
        settings = [word for key, value in config.items() for word in ("--set", f"{key}={value}")]
        return [*settings, "--dataset", str(self.data)]

    def run(self, command: "list[str]", cache: "Path | None" = None) -> Path:
        """Run one way to its end; return the folder that it wrote to."""
        out, environment = self.prepare(cache)
        done = subprocess.run(
            command, cwd=out, env=environment, capture_output=True, text=True, timeout=self.limit_s, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return out

    def prepare(self, cache: "Path | None") -> "tuple[Path, dict[str, str]]":
        out = Path(tempfile.mkdtemp(dir=self.folder))
        mine = {
            "PATH": f"{BIN}:{os.environ['PATH']}",  # msrun runs whatever `python` is
            "BENCH_STEPS": str(out),
            "ASCENDRUN_HOME": str(out / "home"),
            "ASCENDRUN_RUN_DIR": str(out / "runs"),
            "XDG_CACHE_HOME": str(cache or out / "cache"),
        }
        return out, {**os.environ, **mine}

    def step_s(self, command: "list[str]") -> "list[float]":
        """Return the seconds of each step of rank 0, compile and warm-up left out."""
        out = self.run(command)
        path = out / "0" if (out / "0").exists() else next(progress_files(out))
        facts = [json.loads(line) for line in path.read_text().splitlines()]
        return [fact["step_s"] for fact in facts if fact["kind"] == "step"][WARM_UP_STEPS:]

    def start_s(self, cache: Path) -> float:
        """Return the seconds from the job's launch until rank 0 has told of its first step."""
        command = [*self.launch(), *self.job(epoch_size=1, warmup_epochs=0, save_checkpoint="false"), "sknet50-cpu"]
        out, environment = self.prepare(cache)
        began = time.monotonic()
        running = subprocess.Popen(
            command, cwd=out, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not any('"kind": "step"' in path.read_text() for path in progress_files(out)):
            if running.poll() is not None or time.monotonic() - began > self.limit_s:
                raise SystemExit(f"{' '.join(command)}: no step within {time.monotonic() - began:.0f} s")
            time.sleep(0.02)
        seconds = time.monotonic() - began
        if running.wait(timeout=self.limit_s):
            raise SystemExit(f"{' '.join(command)} failed")
        return seconds


def progress_files(out: Path) -> "Iterator[Path]":
    """Yield what rank 0 of a job's run in *out* tells, once it is there."""
    for work in ("train", "train_parallel0"):
        yield from (out / "runs").glob(f"*/{work}/progress.jsonl")


def compare(bench: Bench, rounds: int) -> float:
    """Train every way, *rounds* times in turn; print images/s and ratios. Return those of the job."""
    times: "dict[str, list[float]]" = {name: [] for name in bench.ways()}
    for _ in range(rounds):
        for name, command in bench.ways().items():
            times[name].append(statistics.median(bench.step_s(command)))
    rates = {name: bench.batch * bench.ranks / statistics.median(measured) for name, measured in times.items()}
    torch = max(rate for name, rate in rates.items() if name.startswith("PyTorch"))
    print(f"\nSKNet50, {bench.side} pixels, batch {bench.batch} on {ranks_text(bench.ranks)}, {rounds} rounds")
    for name, rate in rates.items():
        print(
            f"  {name:24} {rate:7.1f} images/s (best step {min(times[name]):.3f} s)   "
            f"{rate / rates['msrun']:5.2f} x msrun   {rate / torch:5.2f} x PyTorch",
            flush=True,
        )
    return rates["ascendrun, the job"]


def compare_reader(bench: Bench, step_rate: float) -> None:
    """Print how many pictures a second one process reads, and how many times the training step's rate that is."""
    from sknet import dataset

    pictures = dataset.open_pictures(str(bench.data), dataset.TRAIN)
    count, epoch, began = 0, 0, time.monotonic()
    while (seconds := time.monotonic() - began) < READING_S:
        epoch += 1
        for images, _ in dataset.training_batches(pictures, bench.side, bench.batch, 0, 1, 1, epoch):
            count += len(images)
    rate = count / seconds
    print(f"reader at {bench.side} pixels: {rate:.0f} images/s, {rate / step_rate:.1f} x the training step's rate")


def compare_starts(bench: Bench, rounds: int) -> None:
    """Print how long a first and a second start of the job take to their first step."""
    firsts, seconds = [], []
    for _ in range(rounds):
        cache = Path(tempfile.mkdtemp(dir=bench.folder))
        firsts.append(bench.start_s(cache))
        seconds.append(bench.start_s(cache))
    first, second = statistics.median(firsts), statistics.median(seconds)
    print(
        f"first step after: first start {first:.1f} s, second start {second:.1f} s, {second / first:.2f} of the first"
    )


def group_of(operator: str) -> str:
    """Return what an operator of the step's graph works for. *operator* is its place in the graph and its kind."""
    kind = operator.rpartition("/")[2].partition("-op")[0]
    groups = {
        "Conv2D": "convolution, forward",
        "Conv2DBackpropInput": "convolution, input gradient",
        "Conv2DBackpropFilter": "convolution, weight gradient",
        "MatMul": "matrix product (1x1 convolutions of few positions, attention, head), all directions",
        "AllReduce": "all-reduce",
    }
    if kind in groups:
        return groups[kind]
    if "mean-PackedMean" in operator:
        return "packing for the all-reduce"
    if kind.startswith("BatchNorm"):
        return "batch norm"
    if "optimizer-" in operator:
        return "optimiser"
    if "-SKConvolution/" in operator and "branches-" not in operator:
        return "attention, but for its matrix products"
    return "other"


def profile(bench: Bench) -> None:
    """Print the time of one step by what it goes to."""
    sizes = [str(size) for size in (bench.batch, bench.side, bench.steps)]
    out = bench.run([*bench.launch(), "--", sys.executable, str(bench.program("profiled")), *sizes])
    spent: "collections.Counter[str]" = collections.Counter()
    kinds: "collections.Counter[str]" = collections.Counter()
    for path in (out / "0").glob("**/cpu_op_execute_timestamp_*.txt"):
        for line in path.read_text().splitlines():
            operator, _, calls = line.split(";")
            milliseconds = sum(float(call.split(",")[1]) for call in calls.split()) / bench.steps
            spent[group_of(operator)] += milliseconds
            if group_of(operator) == "other":
                kinds[operator.rpartition("/")[2].partition("-op")[0]] += milliseconds
    total = sum(spent.values())
    print(
        f"\nSKNet50, {bench.side} pixels, batch {bench.batch} on {ranks_text(bench.ranks)}: {total:.0f} ms of operators"
    )
    for name, milliseconds in spent.most_common():
        print(f"  {milliseconds:8.1f} ms  {milliseconds / total:5.1%}  {name}")
    print("other: " + ", ".join(f"{kind} {milliseconds:.1f} ms" for kind, milliseconds in kinds.most_common(6)))


def ranks_text(ranks: int) -> str:
    return f"{ranks} rank{'s' * (ranks > 1)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128], help="pictures a rank and step")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10, help=f"of which {WARM_UP_STEPS} are warm-up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=1800, help="seconds that one run may take")
    parser.add_argument("--profile", action="store_true", help="only say where the time of MindSpore's step goes")
    arguments = parser.parse_args()
    if arguments.steps <= WARM_UP_STEPS:
        parser.error(f"--steps must be above {WARM_UP_STEPS}")
    flags = Path("/proc/cpuinfo").read_text()
    print(f"{os.cpu_count()} CPUs, AVX-512: {'yes' if 'avx512f' in flags else 'no'}")
    folder = Path(tempfile.mkdtemp(prefix="ascendrun-bench-"))

    def bench(side: int, batch: int, steps: int) -> Bench:
        return Bench(folder, arguments.ranks, side, batch, steps, arguments.limit)

    try:
        if arguments.profile:
            for batch in arguments.batch:
                profile(bench(32, batch, arguments.steps))
            return
        for batch in arguments.batch:
            small = bench(32, batch, arguments.steps)
            rate = compare(small, arguments.rounds)
            compare_reader(small, rate)
        large = bench(224, 4, 5)
        step_s = statistics.median(large.step_s(large.ways()["ascendrun, the job"]))
        compare_reader(large, large.batch * large.ranks / step_s)
        compare_starts(bench(32, 16, 2), arguments.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
