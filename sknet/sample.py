"""Make a small learnable dataset: `python -m sknet.sample DIR --train N --test M [--seed S]`.

Ten classes that a net tells apart within some twenty steps: each has its own colour and its own stripes, of a direction
and a width of its own, around a soft blob. Place, brightness, contrast and noise vary from picture to picture.
"""

from __future__ import annotations

import argparse
import colorsys
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from sknet.dataset import RECORD, SIDE
from sknet.errors import InputError, SknetError

CLASSES = 10
INTERRUPTED = 130  # exit code after Ctrl-C, as of a shell
TRAIN_FILE = Path("cifar-10-batches-bin/data_batch_1.bin")
TEST_FILE = Path("cifar-10-verify-bin/test_batch.bin")


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code of errors.py."""
    parser = argparse.ArgumentParser(
        prog="sknet.sample", description="Make a small dataset in CIFAR-10's binary layout."
    )
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--train", type=int, default=512, metavar="N", help="training pictures (512)")
    parser.add_argument("--test", type=int, default=200, metavar="M", help="test pictures (200)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="other seeds give other pictures (1)")
    given = parser.parse_args(arguments)
    try:
        if min(given.train, given.test) < 1 or given.seed < 0:
            raise InputError("--train and --test must be at least 1, --seed at least 0")
        make(given.folder, given.train, given.test, given.seed)
    except SknetError as exc:
        print(f"sknet.sample: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        print("sknet.sample: interrupted", file=sys.stderr)
        return INTERRUPTED
    print(f"{given.folder}: {given.train} pictures to train on, {given.test} to test with")
    return 0


def make(folder: Path, train: int, test: int, seed: int = 1) -> None:
    """Write the dataset; the same arguments give the same bytes. Leaves a dataset alone that is already identical.

    Raises InputError when the folder holds any other dataset, SknetError when it cannot be written.
    """
    wanted = {folder / TRAIN_FILE: (train, 0), folder / TEST_FILE: (test, 1)}
    try:
        for path, (count, part) in wanted.items():
            strangers = [other for other in path.parent.glob("*.bin") if other != path]
            if strangers or (path.exists() and not is_already(path, count, seed, part)):
                raise InputError(
                    f"{(strangers or [path])[0]} is there already and not this sample; choose another folder"
                )
        for path, (count, part) in wanted.items():
            if not path.exists():
                write_whole(path, records(count, seed, part))
    except OSError as exc:
        raise SknetError(f"cannot write {folder}: {exc.strerror}") from exc


def is_already(path: Path, count: int, seed: int, part: int) -> bool:
    """Tell whether *path* holds these records and no more."""
    if path.stat().st_size != count * RECORD:
        return False
    with path.open("rb") as file:
        return all(file.read(RECORD) == record for record in records(count, seed, part))


def write_whole(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def records(count: int, seed: int, part: int) -> Iterator[bytes]:
    """Yield *count* records, classes in turn, of training part 0 or test part 1."""
    rng = np.random.default_rng([seed, part])
    for index in range(count):
        label = index % CLASSES
        yield bytes([label]) + picture(label, rng).tobytes()


def picture(label: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one picture of a class: (3, SIDE, SIDE) uint8."""
    y, x = (np.mgrid[:SIDE, :SIDE] + 0.5) / SIDE - 0.5  # -0.5 to 0.5
    hue = (label * 3 % CLASSES) / CLASSES + rng.normal(0, 0.015)
    colour = np.array(colorsys.hsv_to_rgb(hue % 1.0, 0.8, 1.0))
    angle = np.pi * (label % 5) / 5 + rng.normal(0, 0.08)
    waves = (2.0, 5.0)[label // 5]
    stripes = np.sin(2 * np.pi * (waves * (x * np.cos(angle) + y * np.sin(angle)) + rng.random()))
    centre_x, centre_y = rng.uniform(-0.2, 0.2, 2)
    blob = np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / 0.08)
    light = rng.uniform(0.35, 0.55) + rng.uniform(0.2, 0.35) * stripes * (0.4 + 0.6 * blob)  # (SIDE, SIDE)
    pixels = light * (0.35 + 0.65 * colour[:, None, None]) + rng.normal(0, 0.08, (3, SIDE, SIDE))
    whole: np.ndarray = (np.clip(pixels, 0.0, 1.0) * 255).astype(np.uint8)
    return whole


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
