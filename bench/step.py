"""How long a training step of SKNet50 takes under plain msrun and under ascendrun, side by side.

Two ranks on this machine's CPU, the same program, the same made-up pictures. The first steps (compile, warm-up)
are left out; the figure is the median of the rest. The gain that is promised for CPUs with AVX-512 comes from
keeping oneDNN off a path on which MindSpore 2.x falls back to a reference convolution; the CPU is named, because
on one without AVX-512 there is no such path to be kept from.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RANK = """
import os, sys
os.environ["ASCENDRUN_PROGRESS"] = os.path.join(os.environ["BENCH_STEPS"], "rank-" + os.environ["RANK_ID"])
from sknet.train import main
sys.exit(main(sys.argv[1:], os.environ))
"""
WARM_UP_STEPS = 2


def measure(command: "list[str]", folder: Path, limit_s: float) -> float:
    """Return the median seconds of a step of rank 0, compile and warm-up left out."""
    steps = Path(tempfile.mkdtemp(dir=folder))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # msrun runs whatever `python` is
    environment = {**os.environ, "PATH": path, "BENCH_STEPS": str(steps), "ASCENDRUN_HOME": str(folder / "home")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit_s)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    facts = [json.loads(line) for line in (steps / "rank-0").read_text().splitlines()]
    times = [fact["step_s"] for fact in facts if fact["kind"] == "step"]
    return statistics.median(times[WARM_UP_STEPS:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32, help="pictures a rank and step")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--limit", type=float, default=1800, help="seconds that one run may take")
    arguments = parser.parse_args()
    bin_dir = Path(sys.executable).parent
    folder = Path(tempfile.mkdtemp(prefix="ascendrun-bench-"))
    try:
        rank = folder / "rank.py"
        rank.write_text(RANK)
        pictures = str(arguments.steps * arguments.batch * 2)
        subprocess.run(
            [sys.executable, "-m", "sknet.sample", str(folder / "data"), "--train", pictures, "--test", "10"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        job = ["--image_size=32", f"--batch_size={arguments.batch}", "--epoch_size=1", "--warmup_epochs=0"]
        job += ["--save_checkpoint=false", f"--dataset_path={folder / 'data'}", "--device_target=CPU"]
        peer = [str(bin_dir / "msrun"), "--worker_num=2", "--local_worker_num=2", "--join=True", "--master_port=18128"]
        ways = {
            "msrun": [*peer, str(rank), *job],
            "ascendrun": [
                str(bin_dir / "ascendrun"),
                "launch",
                "--devices",
                "2",
                "--",
                sys.executable,
                str(rank),
                *job,
            ],
        }
        times: "dict[str, list[float]]" = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, command in ways.items():
                times[name].append(measure(command, folder, arguments.limit))
        medians = {name: statistics.median(measured) for name, measured in times.items()}
        flags = Path("/proc/cpuinfo").read_text()
        print(f"SKNet50, 2 ranks, batch {arguments.batch}, {os.cpu_count()} CPUs, AVX-512: {'avx512f' in flags}")
        for name, median in medians.items():
            print(f"{name:12} {median:7.3f} s a step   {medians['msrun'] / median:5.2f} x as fast as msrun")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
