"""Progress for machines: JSON lines appended to the file that the environment names in ASCENDRUN_PROGRESS.

The contract, one object a line; paths are absolute, durations seconds, rates per second; `null` is "not a number":

    {"kind": "phase", "phase": "start"|"compile"|"train"|"evaluate"|"checkpoint"|"finish"}   on entering the phase
    {"kind": "step", "epoch": 1, "epochs": 4, "step": 3, "steps": 62, "loss": 2.3, "lr": 0.01,
     "step_s": 0.53, "images_per_s": 60.1, "wait_s": 0.0001, "loss_scale": 1024.0, "skipped": 0}
    {"kind": "epoch", "epoch": 1, "epochs": 4, "loss": 1.9, "epoch_s": 12.3, "step_s": 0.5, "images_per_s": 64.0}
    {"kind": "checkpoint", "path": "/…/sknet50-1_62.ckpt", "epoch": 1, "step": 62, "global_step": 62,
     "bytes": 204300000, "seconds": 0.5, "copy_s": 0.1, "write_s": 0.4, "sha256": "9f86…", "global_batch": 256}
    {"kind": "evaluation", "checkpoint": "/…/sknet50-1_62.ckpt", "epoch": 1, "step": 62, "top_1_accuracy": 0.944,
     "top_5_accuracy": 0.998, "loss": 0.2, "pictures": 10000, "per_class_accuracy": [0.95, ...], "sha256": "9f86…",
     "json": "/…/sknet50-1_62.eval.json", "png": "/…/sknet50-1_62.eval.png"}
    {"kind": "evaluation", "checkpoint": "/…/sknet50-2_62.ckpt", "error": "…"}   for one that could not be evaluated

Epochs and steps count from 1, steps inside their epoch, global_step through all of them; `steps` is the number in an
epoch. Losses of steps are means over all ranks, of epochs means over steps. images_per_s counts all ranks: global batch
/ step_s. wait_s is the part of step_s in which the step waited for its batch; a data sink does not tell it. loss_scale,
that of the step, and skipped, 1 where its gradients overflowed and the update was left out, are there while the loss
scale is dynamic. A checkpoint is reported when its file is whole, which may be steps after the one it holds: training
stood still for copy_s only, write_s ran beside it, and seconds is both; global_batch is what all ranks take in a step.
The phase "checkpoint" is the copy, and at the end the wait for the last file. Accuracies are shares in 0..1, of a class
without pictures `null`; json and png say where the whole result lies, `null` where it could not be kept; sha256 is that
of the checkpoint. Each rank writes its own file; every line is one write() with O_APPEND, so a reader sees whole lines
only. Training never fails for the sake of progress: what cannot be written is lost.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

VARIABLE = "ASCENDRUN_PROGRESS"


class Progress:
    """Writes progress lines to *path*, or nowhere when it is None."""

    def __init__(self, path: str | None) -> None:
        self._path = path or None

    def phase(self, name: str) -> None:
        """Say that the run enters the phase of this name."""
        self.write("phase", phase=name)

    def write(self, kind: str, **data: Any) -> None:
        """Append one line. Never raises for a file that cannot be written."""
        if self._path is None:
            return
        line = json.dumps({"kind": kind, **{name: finite(value) for name, value in data.items()}}) + "\n"
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError:
            pass  # a full disk or a removed folder must not end a training run


def finite(value: Any) -> Any:
    """Return *value*, or None for a float that JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
