"""CIFAR-10 in its binary layout: a reader of any number of pictures, shards of it, batches for the net.

DIR/cifar-10-batches-bin/data_batch_*.bin are for training, DIR/cifar-10-verify-bin/*.bin for evaluation. A record
is 3,073 bytes: the label, then 32x32 pixels of red, of green and of blue. MindSpore's own Cifar10Dataset takes every
file for 10,000 records; this reader takes any whole number. Everything follows from (seed, epoch, picture): which rank
a picture goes to changes nothing about how it is cropped.
Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sknet.errors import InputError

SIDE = 32  # pixels
RECORD = 1 + 3 * SIDE * SIDE  # bytes
PADDING = 4  # black pixels around a picture from which a crop is taken
TRAIN = ("cifar-10-batches-bin", "data_batch_*.bin")
TEST = ("cifar-10-verify-bin", "*.bin")
# Of the 50,000 training pictures, red, green, blue, in 0..1; the values of the published recipe.
MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)
DEVIATION = np.array([0.2023, 0.1994, 0.2010], np.float32)
_FACTOR = (1 / (255 * DEVIATION))[:, None, None]  # of a byte, to be less the offset
_OFFSET = (MEAN / DEVIATION)[:, None, None]
# Multiplications of a matrix product up to which OpenBLAS stays on one thread. Beyond, it starts threads for every
# single picture, which takes many times as long as soon as the training step keeps the CPUs busy.
_ONE_THREAD = 1 << 18


@dataclass(frozen=True)
class Pictures:
    """The records of one part of a dataset, on disk. *ends* holds the number of records up to the end of each file."""

    paths: tuple[Path, ...]
    files: tuple[np.ndarray, ...]  # each (records, RECORD) uint8, memory-mapped
    ends: np.ndarray

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pixels (B, 3, SIDE, SIDE) uint8 and labels (B,) int32 of the records with these numbers (B,)."""
        records = np.empty((len(numbers), RECORD), np.uint8)
        where = np.searchsorted(self.ends, numbers, side="right")
        for index, file in enumerate(self.files):
            mine = where == index
            if mine.any():
                records[mine] = file[numbers[mine] - (self.ends[index] - len(file))]
        return records[:, 1:].reshape(-1, 3, SIDE, SIDE), records[:, 0].astype(np.int32)


def open_pictures(dataset_path: str | None, part: tuple[str, str]) -> Pictures:
    """Open one part, TRAIN or TEST, of the dataset at *dataset_path*.

    Raises InputError when the folder or its files are missing, or a file is not a whole number of records.
    """
    if not dataset_path:
        raise InputError("--dataset_path is required: a folder with cifar-10-batches-bin/ and cifar-10-verify-bin/")
    folder = Path(dataset_path) / part[0]
    if not folder.is_dir():
        raise InputError(
            f"no dataset at {dataset_path}: the folder {folder} is missing; "
            f"`python -m sknet.sample {shlex.quote(dataset_path)} --train 512 --test 200` makes a small one"
        )
    paths = sorted(folder.glob(part[1]))
    if not paths:
        raise InputError(f"no {part[1]} in {folder}")
    files = tuple(open_file(path) for path in paths)
    return Pictures(tuple(paths), files, np.cumsum([len(file) for file in files]))


def open_file(path: Path) -> np.ndarray:
    """Map one file: (records, RECORD) uint8. Raises InputError as open_pictures does."""
    try:
        size = path.stat().st_size
        whole = size - size % RECORD
        if size == 0 or size != whole:
            raise InputError(
                f"{path} has {size} bytes, not a whole number of {RECORD}-byte records: it is cut short or "
                f"no CIFAR-10 binary file; fetch it again" + (f" or cut it to {whole} bytes" if whole else "")
            )
        return np.memmap(path, np.uint8, mode="r", shape=(size // RECORD, RECORD))
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}") from exc


def check_labels(pictures: Pictures, class_num: int) -> None:
    """Raise InputError, naming the first such picture, when a label is not below *class_num*."""
    for path, records in zip(pictures.paths, pictures.files):
        wrong = np.flatnonzero(records[:, 0] >= class_num)
        if len(wrong):
            label = records[wrong[0], 0]
            raise InputError(f"{path}: picture {wrong[0]} has label {label}, but class_num is {class_num}")


def steps_per_epoch(pictures: Pictures, batch_size: int, ranks: int) -> int:
    """Return how many whole global batches an epoch has. Raises InputError when not even one fits."""
    steps = len(pictures) // (batch_size * ranks)
    if steps == 0:
        raise InputError(
            f"{len(pictures)} training pictures are fewer than one step of batch_size {batch_size} "
            f"on {ranks} rank{'s' * (ranks > 1)} takes; lower --batch_size"
        )
    return steps


def shard(count: int, rank: int, ranks: int, seed: int, epoch: int) -> np.ndarray:
    """Return the picture numbers of one rank in one epoch, in the order of their use: int64, (n,).

    Over all ranks every picture is there exactly once, and n differs by 1 at most. The ranks take turns along one
    permutation, so that N ranks see together in each step what one rank with N times the batch would.
    """
    return np.random.default_rng([seed, epoch, 0]).permutation(count)[rank::ranks]


def training_batches(
    pictures: Pictures, image_size: int, batch_size: int, rank: int, ranks: int, seed: int, epoch: int, skip: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pictures (batch_size, 3, S, S) float32, randomly cropped and flipped, and labels (batch_size,) int32.

    They are this rank's shard, cut into batches; every rank gets the same number of them. The pictures that fill no
    global batch, fewer than batch_size * ranks, sit this epoch out: a smaller step would count its pictures for more
    and need a graph of its own. The next epoch has another order, so others are left out then.
    A run that is taken up in the midst of an epoch has its first *skip* batches behind it.
    """
    steps = steps_per_epoch(pictures, batch_size, ranks)
    mine = shard(len(pictures), rank, ranks, seed, epoch)[: steps * batch_size]
    chance = np.random.default_rng([seed, epoch, 1])
    corners = chance.integers(0, 2 * PADDING + 1, (len(pictures), 2))  # top, left
    flips = chance.random(len(pictures)) < 0.5
    for numbers in mine.reshape(steps, batch_size)[skip:]:
        pixels, labels = pictures.read(numbers)
        yield prepare(crop(pixels, corners[numbers], flips[numbers]), image_size), labels


def test_batches(pictures: Pictures, image_size: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield pictures (batch_size, 3, S, S) float32, labels (batch_size,) int32, and how many of them count.

    Every picture counts exactly once. The last batch is filled up with copies of its last picture, which do not
    count, so that one compiled graph serves all batches.
    """
    for start in range(0, len(pictures), batch_size):
        numbers = np.arange(start, start + batch_size)
        count = min(batch_size, len(pictures) - start)
        pixels, labels = pictures.read(np.minimum(numbers, len(pictures) - 1))
        yield prepare(pixels, image_size), labels, count


def crop(pixels: np.ndarray, corners: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """Cut pictures (B, 3, SIDE, SIDE), padded, at corners (B, 2); mirror them left to right where flips (B,) says."""
    padded = np.zeros((*pixels.shape[:2], SIDE + 2 * PADDING, SIDE + 2 * PADDING), np.uint8)
    padded[:, :, PADDING:-PADDING, PADDING:-PADDING] = pixels
    cut = np.empty_like(pixels)
    for index, ((top, left), flip) in enumerate(zip(corners.tolist(), flips.tolist())):
        window = padded[index, :, top : top + SIDE, left : left + SIDE]
        cut[index] = window[:, :, ::-1] if flip else window
    return cut


def prepare(pixels: np.ndarray, image_size: int) -> np.ndarray:
    """Normalise and resize pixels (B, 3, SIDE, SIDE) uint8 to what the net takes: (B, 3, S, S) float32."""
    scaled: np.ndarray = np.multiply(pixels, _FACTOR, dtype=np.float32)
    scaled -= _OFFSET
    if image_size == SIDE:
        return scaled
    weights = resize_weights(SIDE, image_size)
    rows = scaled @ np.ascontiguousarray(weights.T)  # (B, 3, SIDE, S)
    out = np.empty((*pixels.shape[:2], image_size, image_size), np.float32)
    height = max(1, _ONE_THREAD // (SIDE * image_size))
    for top in range(0, image_size, height):
        np.matmul(weights[top : top + height], rows, out=out[:, :, top : top + height])
    return out


def resize_weights(before: int, after: int) -> np.ndarray:
    """Return the matrix (after, before) float32 of bilinear resizing along one axis; each row adds up to 1.

    Pixel centres are at halves; when shrinking, the filter widens with the pixels, as in Pillow's BILINEAR.
    """
    scale = before / after
    centres = (np.arange(after) + 0.5) * scale
    distance = np.abs(np.arange(before) + 0.5 - centres[:, None]) / max(1.0, scale)
    weights = np.maximum(0.0, 1.0 - distance)
    rows: np.ndarray = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return rows


def batches_in(pictures: Pictures, batch_size: int) -> int:
    """Return how many batches test_batches yields."""
    return math.ceil(len(pictures) / batch_size)
