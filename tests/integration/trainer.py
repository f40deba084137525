"""A trainer without a net: STEPS steps, a checkpoint by rank 0 after every fifth, a planned death.

DIE is RANK:HOW:ATTEMPTS, as in 1:KILL:1: rank 1 dies at step 12 of the first attempt. HOW is a signal or an exit code.
SPOIL is cut or flip: what becomes of its checkpoint of step 10.
"""

import hashlib
import json
import os
import signal
import sys
import time

GLOBAL_BATCH = int(os.environ.get("GLOBAL_BATCH", "0"))
rank, attempt = int(os.environ["RANK"]), int(os.environ["ASCENDRUN_ATTEMPT"])
work = os.environ["ASCENDRUN_WORK_FOLDER"]
steps, step_s = int(os.environ.get("STEPS", "30")), float(os.environ.get("STEP_S", "0.05"))
dying, how, attempts = os.environ.get("DIE", "-1:0:0").split(":")


def tell(**fact: object) -> None:
    with open(os.environ["ASCENDRUN_PROGRESS"], "a") as progress:
        progress.write(json.dumps(fact) + "\n")


def save(step: int) -> str:
    content = json.dumps({"step": step, "weights": "w" * 10_000}).encode()
    path = f"{work}/toy-1_{step}.ckpt"
    with open(path + ".part", "wb") as file:
        file.write(content)
    os.rename(path + ".part", path)
    sha256 = hashlib.sha256(content).hexdigest()
    tell(kind="checkpoint", path=path, epoch=1, step=step, bytes=len(content), sha256=sha256, global_batch=GLOBAL_BATCH)
    return path


def spoil(path: str) -> None:
    size = os.path.getsize(path)
    if os.environ.get("SPOIL") == "cut":
        os.truncate(path, size // 2)
    if os.environ.get("SPOIL") == "flip":
        with open(path, "r+b") as file:
            file.seek(size // 2)
            file.write(b"???")


def die() -> None:
    if how.isdigit():
        sys.exit(int(how))
    os.kill(os.getpid(), getattr(signal, f"SIG{how}"))


first = 0
if "ASCENDRUN_RESUME" in os.environ:
    with open(os.environ["ASCENDRUN_RESUME"]) as file:
        first = json.load(file)["step"]
print(f"attempt {attempt} goes on from step {first}", flush=True)
for step in range(first + 1, steps + 1):
    time.sleep(step_s)
    tell(kind="step", epoch=1, step=step, loss=1 / step)
    if rank == 0 and step % 5 == 0:
        path = save(step)
        if attempt <= int(attempts) and step == first % 10 + 10:
            spoil(path)
    if attempt <= int(attempts) and step == first % 10 + 12:
        if rank == int(dying):
            die()
        time.sleep(60)  # as ranks do whose peer is gone
