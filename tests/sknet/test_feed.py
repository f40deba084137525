from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sknet import dataset
from sknet.config import Config
from sknet.distributed import World
from sknet.feed import DEPTH, as_dataset, batches_left, prefetched
from sknet.schedule import rates


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("reader")]


def test_items_come_in_order_each_once_and_no_thread_is_left() -> None:
    with prefetched(iter(range(50))) as ready:
        assert list(ready) == list(range(50))
    assert readers() == []


def test_the_reader_is_never_more_than_its_depth_ahead_and_works_while_nobody_asks() -> None:
    begun, at_the_limit = [], threading.Event()

    def items() -> Iterator[int]:
        for number in range(100):
            begun.append(number)
            if len(begun) == DEPTH:
                at_the_limit.set()
            yield number

    with prefetched(items()) as ready:
        assert at_the_limit.wait(10)  # without anybody asking
        for taken in range(1, 20):
            next(ready)
            assert len(begun) <= taken + DEPTH


def test_what_the_reader_raises_comes_out_where_the_item_would_have() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with prefetched(items()) as ready:
        assert next(ready) == 1
        with pytest.raises(OSError, match="the disk is gone"):
            next(ready)
    assert readers() == []


def test_leaving_in_the_midst_ends_the_thread_and_reads_no_further() -> None:
    begun: list[int] = []
    with prefetched(number for number in range(10**9) if not begun.append(number)) as ready:
        next(ready)
    assert readers() == []
    assert len(begun) <= 1 + DEPTH


def test_an_interrupt_reaches_the_step_that_waits_for_data() -> None:
    asked, stuck = threading.Event(), threading.Event()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # MindSpore has its own, once it has computed anything

    def items() -> Iterator[int]:
        asked.wait(10)
        os.kill(os.getpid(), signal.SIGINT)
        stuck.wait(10)
        yield 1

    with pytest.raises(KeyboardInterrupt), prefetched(items()) as ready:
        try:
            asked.set()
            next(ready)
        finally:
            stuck.set()
    assert readers() == []


def whole_and_rest(folder: Path, done: int) -> tuple[list, list]:
    pictures = dataset.open_pictures(str(folder), dataset.TRAIN)
    config = Config(image_size=32, batch_size=16, epoch_size=3, warmup_epochs=1)
    every = rates(config, 4)
    world = World(rank=1, ranks=2)
    return [list(batches_left(config, pictures, world, 4, every, begin)) for begin in (0, done)]


@pytest.mark.parametrize("done", [1, 4, 6, 11, 12])
def test_a_run_taken_up_after_some_steps_sees_the_rest_of_the_same_batches(small_dataset: Path, done: int) -> None:
    whole, rest = whole_and_rest(small_dataset, done)
    assert len(whole) == 12
    assert len(rest) == 12 - done
    for ours, theirs in zip(rest, whole[done:], strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_as_a_mindspore_dataset_the_batches_are_the_same_rows(small_dataset: Path) -> None:
    whole, _ = whole_and_rest(small_dataset, 12)
    data = as_dataset(iter(whole), len(whole))
    assert data.get_dataset_size() == 12
    rows = list(data.create_tuple_iterator(output_numpy=True, num_epochs=1))
    assert len(rows) == 12
    for row, batch in zip(rows, whole, strict=True):
        assert [(column.shape, column.dtype) for column in row] == [(part.shape, part.dtype) for part in batch]
        assert all(np.array_equal(column, part) for column, part in zip(row, batch, strict=True))
