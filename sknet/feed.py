"""How batches reach the training step: read ahead of it, in order, so that no step waits for the disk or for NumPy."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from sknet import dataset
from sknet.config import Config
from sknet.distributed import World

if TYPE_CHECKING:
    import mindspore as ms
    from mindspore import nn

DEPTH = 2  # batches that wait for the step; at 224 pixels and batch 32 one takes 19 MB
END: Final = object()
T = TypeVar("T")


def batches_left(
    config: Config, pictures: dataset.Pictures, world: World, steps: int, rates: np.ndarray, done: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield this rank's batches after the first *done* steps of the schedule, each with its learning rate.

    Pictures (B, 3, S, S) float32, labels (B,) int32, rate () float32. An epoch has *steps* steps.
    """
    for epoch in range(done // steps + 1, config.epoch_size + 1):
        skip = done % steps if epoch == done // steps + 1 else 0
        batches = dataset.training_batches(
            pictures, config.image_size, config.batch_size, world.rank, world.ranks, config.seed, epoch, skip
        )
        for number, (images, labels) in enumerate(batches, (epoch - 1) * steps + skip):
            yield images, labels, np.asarray(rates[number])


@contextmanager
def prefetched(items: Iterator[T], depth: int = DEPTH) -> Iterator[Iterator[T]]:
    """Give an iterator over *items* that a thread fills, at most *depth* of them ahead.

    What *items* raises comes out of the iterator in its place. On leaving, the thread has ended.
    """
    with ThreadPoolExecutor(1, "reader") as reader:
        waiting = deque(reader.submit(next, items, END) for _ in range(depth))

        def ready() -> Iterator[T]:
            while (item := waiting.popleft().result()) is not END:
                waiting.append(reader.submit(next, items, END))
                yield item  # type: ignore[misc]  # it is not END

        try:
            yield ready()
        finally:
            reader.shutdown(cancel_futures=True)


@contextmanager
def feeding(
    step: nn.Cell, batches: Iterator[tuple[np.ndarray, ...]], count: int, sink: bool
) -> Iterator[Callable[[], tuple[ms.Tensor, float | None]]]:
    """Give a function that takes the next of *count* steps: its loss, and how long it waited for data, in seconds.

    With *sink* (Ascend) MindSpore moves batches to the device beside the steps, and nobody can tell what they wait.
    """
    import mindspore as ms

    if sink:
        sunk = ms.data_sink(step, as_dataset(batches, count), sink_size=1)
        yield lambda: (sunk(), None)
        return
    with prefetched(tuple(ms.Tensor(part) for part in batch) for batch in batches) as ready:

        def take() -> tuple[ms.Tensor, float]:
            began = time.monotonic()
            batch = next(ready)
            waited_s = time.monotonic() - began
            return step(*batch), waited_s

        yield take


class Source:
    """*batches* as GeneratorDataset reads them: it asks for their number before the first one."""

    def __init__(self, batches: Iterator[tuple[np.ndarray, ...]], count: int) -> None:
        self._batches = batches
        self._count = count

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        return self._batches

    def __len__(self) -> int:
        return self._count


def as_dataset(batches: Iterator[tuple[np.ndarray, ...]], count: int) -> Any:
    """Return batches as a MindSpore dataset with columns pictures, labels, rate; a row is a batch."""
    from mindspore.dataset import GeneratorDataset

    return GeneratorDataset(
        Source(batches, count), ["pictures", "labels", "rate"], shuffle=False, num_parallel_workers=1
    )
