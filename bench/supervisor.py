"""What the supervisor costs: CPU and memory, beside 8 ranks that make steps, and beside 8 that log 20,000 lines/s.

Each rank tells one loss that is no number, in the midst of all others, and a last step: both must have been read.
Then what it costs to look at eight devices as often as it does by default, by the stand-ins of their tools.
Exits with 1 where a bound is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.supervisor import vitals
from orchestrator.supervisor.hostplan import HostPlan, ProcessPlan
from orchestrator.supervisor.journal import Journal
from orchestrator.supervisor.rundir import RunDir

RANKS = 8
TOOLS = Path(__file__).resolve().parents[1] / "tests" / "testbed" / "tools"
TELLING = """
import json, os, time
end, step = time.monotonic() + {seconds}, 0
while time.monotonic() < end:
    step += 1
    loss = None if step == {bad} else 2.5
    line = json.dumps(dict(kind="step", epoch=1, epochs=90, step=step, steps=10**6, loss=loss, step_s=0.1))
    with open(os.environ["ASCENDRUN_PROGRESS"], "a") as file:
        file.write(line + "\\n")
    time.sleep(0.1)
with open("last", "w") as file:
    file.write(str(step))
"""
LOGGING = """
import sys, time
begin, step = time.monotonic(), 0
while time.monotonic() < begin + {seconds}:
    lines = []
    for _ in range(25):
        step += 1
        lines.append(f"epoch: 1 step: {{step}}, loss is {{'nan' if step == {bad} else '2.302585'}}\\n")
    sys.stdout.write("".join(lines))
    sys.stdout.flush()
    time.sleep(max(0.0, begin + step / {rate} - time.monotonic()))
with open("last", "w") as file:
    file.write(str(step))
"""


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> int:
    """Return the most that *pid* ever had in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def measure(source: str, bad: int, seconds: float, folder: Path) -> "tuple[float, int, int, int]":
    """Return the supervisor's share of a core, its memory, and how many steps and bad losses it has read too little."""
    program = folder / "rank.py"
    program.write_text(source)
    ascendrun = str(Path(sys.executable).with_name("ascendrun"))
    environment = {**os.environ, "ASCENDRUN_HOME": str(folder / "home")}
    words = [ascendrun, "launch", "--devices", str(RANKS), "--name", "r", "--detach", "--json"]
    words += ["--", "sh", "-c", f'cd "$ASCENDRUN_WORK_FOLDER" && exec {sys.executable} {program}']
    subprocess.run(words, cwd=folder, env=environment, check=True, capture_output=True)
    run = folder / "runs" / "r"
    pid = int(json.loads((run / "supervisor.lock").read_text())[0][0])
    time.sleep(3.0)  # the start is not what is measured
    before, began = cpu_s(pid), time.monotonic()
    time.sleep(seconds - 6.0)
    share = (cpu_s(pid) - before) / (time.monotonic() - began)
    memory = memory_bytes(pid)
    while '"run_finished"' not in (journal := (run / "journal.jsonl").read_text()):
        time.sleep(0.2)
    events = [json.loads(line) for line in journal.splitlines()]
    steps = {}
    for event in events:
        if event["kind"] == "progress":
            steps.update({rank: told["step"] for rank, told in event["data"]["ranks"].items() if "step" in told})
    last = {str(rank): int((run / f"train_parallel{rank}" / "last").read_text()) for rank in range(RANKS)}
    missing = sum(abs(last[rank] - steps.get(rank, 0)) for rank in last)
    found = {event["rank"] for event in events if event["kind"] == "nan_loss" and event["data"]["step"] == bad}
    return share, memory, missing, RANKS - len(found)


def looks_at_devices(folder: Path, looks: int = 20) -> "tuple[float, float]":
    """Return the CPU seconds of a look at eight devices, one of them closely, and those that the tools took of it."""
    os.environ["PATH"] = f"{TOOLS}:{os.environ['PATH']}"
    ranks = tuple(ProcessPlan(rank, ("true",), {}, "train", "train.log", device_id=rank) for rank in range(RANKS))
    run_dir = RunDir(folder)
    plan = HostPlan("r", "here", ranks, 1.0, health_every_s=0.01)
    watching = vitals.Vitals(run_dir, plan, Journal(run_dir.journal, "here"))
    for _ in range(looks + 1):
        watching.tick()
        os.waitpid(-1, 0)
        watching.tick()
        time.sleep(0.02)
    told = [json.loads(line)["cpu_s"] for line in run_dir.health.read_text().splitlines()]
    before = children_s()
    for number in range(looks):
        for words in (
            ["npu-smi", "info"],
            ["npu-smi", "info", "-t", "ecc", "-i", str(number % RANKS)],
            *(["hccn_tool", "-i", str(number % RANKS), query, "-g"] for query in ("-link_stat", "-net_health")),
        ):
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return sum(told[1:]) / len(told[1:]), (children_s() - before) / looks  # the first look is a close one at all


def children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the ranks of each part run")
    seconds = parser.parse_args().seconds
    broken = False
    parts = (
        ("8 ranks, 10 steps/s each", TELLING.format(seconds=seconds, bad=40), 40, 0.01),
        ("8 ranks, 20,000 lines/s in all", LOGGING.format(seconds=seconds, bad=7007, rate=2500), 7007, 0.15),
    )
    for name, source, bad, bound in parts:
        with tempfile.TemporaryDirectory() as folder:
            share, memory, steps, losses = measure(source, bad, seconds, Path(folder))
        fine = share < bound and memory < 60e6 and steps == 0 and losses == 0
        broken = broken or not fine
        print(
            f"{name}: {share:.2%} of a core (bound {bound:.0%}), {memory / 1e6:.0f} MB (bound 60 MB), "
            f"{steps} steps and {losses} bad losses not read{'' if fine else '  BROKEN'}"
        )
    with tempfile.TemporaryDirectory() as folder:
        look_s, tools_s = looks_at_devices(Path(folder))
    share = (look_s - tools_s) / vitals.EVERY_S
    broken = broken or share >= 0.003
    print(
        f"a look at {RANKS} devices each {vitals.EVERY_S:.0f} s: {look_s:.3f} s of CPU, {tools_s:.3f} s of it the "
        f"stand-ins of the tools; without them {share:.2%} of a core (bound 0.3%){'' if share < 0.003 else '  BROKEN'}"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
