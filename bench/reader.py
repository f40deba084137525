"""Pictures a second that the reader of sknet prepares for training, alone and while every CPU is busy.

`python bench/reader.py [DATASET]`; without a dataset it makes a small one. One line a picture size.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sknet import dataset, sample

SIZES = (32, 64, 224)  # pixels
BATCH = 32
SECONDS = 3.0


def rate(pictures: dataset.Pictures, image_size: int) -> float:
    """Return pictures a second over some seconds of epochs."""
    count, began = 0, time.perf_counter()
    for epoch in itertools.count(1):
        for images, _ in dataset.training_batches(pictures, image_size, BATCH, 0, 1, 1, epoch):
            count += len(images)
            if (spent := time.perf_counter() - began) > SECONDS:
                return count / spent
    raise AssertionError("epochs do not end")


@contextmanager
def busy_cpus() -> Iterator[None]:
    """Keep a process running on each CPU, as a training step does."""
    spinners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = sys.argv[1] if len(sys.argv) > 1 else made
        if folder == made:
            sample.make(Path(made), 2000, 1)
        pictures = dataset.open_pictures(folder, dataset.TRAIN)
        for size in SIZES:
            alone = rate(pictures, size)
            with busy_cpus():
                beside = rate(pictures, size)
            print(f"{size} pixels: {alone:,.0f} pictures/s, {beside:,.0f} beside busy CPUs")


if __name__ == "__main__":
    main()
