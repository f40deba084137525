from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sknet import dataset
from sknet.errors import InputError


def write(folder: Path, part: tuple[str, str], **files: bytes) -> None:
    (folder / part[0]).mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / part[0] / f"{name}.bin").write_bytes(data)


def records(labels: list[int]) -> bytes:
    return b"".join(bytes([label]) + bytes([label * 7 % 256]) * 3072 for label in labels)


def whole(count: int) -> dataset.Pictures:
    """So many pictures in memory, 256 at most, their numbers as labels."""
    file = np.frombuffer(records(list(range(count))), np.uint8).reshape(-1, dataset.RECORD)
    return dataset.Pictures((Path("data.bin"),), (file,), np.array([count]))


@given(st.integers(1, 3000), st.integers(1, 70), st.integers(0, 3), st.integers(1, 4))
def test_over_all_ranks_every_picture_is_there_exactly_once(count: int, ranks: int, seed: int, epoch: int) -> None:
    shards = [dataset.shard(count, rank, ranks, seed, epoch) for rank in range(ranks)]
    assert sorted(np.concatenate(shards).tolist()) == list(range(count))
    lengths = {len(part) for part in shards}
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(1, 250), st.integers(1, 9), st.integers(1, 6), st.integers(1, 4))
def test_an_epoch_trains_on_each_picture_once_but_for_those_that_fill_no_global_batch(
    count: int, batch: int, ranks: int, epoch: int
) -> None:
    steps = count // (batch * ranks)
    assume(steps)
    pictures = whole(count)
    seen = []
    for rank in range(ranks):
        batches = [labels for _, labels in dataset.training_batches(pictures, 32, batch, rank, ranks, 1, epoch)]
        assert [len(labels) for labels in batches] == [batch] * steps
        seen += np.concatenate(batches).tolist()
    assert len(set(seen)) == len(seen) == steps * batch * ranks
    assert count - len(seen) < batch * ranks


def test_what_one_epoch_leaves_out_another_trains_on() -> None:
    pictures = whole(10)
    seen = [
        {int(label) for _, labels in dataset.training_batches(pictures, 32, 7, 0, 1, 1, epoch) for label in labels}
        for epoch in range(1, 9)
    ]
    assert all(len(epoch) == 7 for epoch in seen)
    assert set.union(*seen) == set(range(10))


@given(st.integers(1, 200), st.integers(1, 5), st.integers(1, 4))
def test_all_ranks_together_see_in_each_step_what_one_rank_with_their_whole_batch_would(
    count: int, batch: int, ranks: int
) -> None:
    steps = count // (batch * ranks)
    together = [dataset.shard(count, rank, ranks, 3, 2)[: steps * batch].reshape(steps, batch) for rank in range(ranks)]
    alone = dataset.shard(count, 0, 1, 3, 2)[: steps * batch * ranks].reshape(steps, batch * ranks)
    assert np.array_equal(np.sort(np.concatenate(together, axis=1)), np.sort(alone))


def test_every_epoch_has_an_order_of_its_own_and_a_seed_repeats_it() -> None:
    first = dataset.shard(100, 0, 1, 1, 1)
    assert np.array_equal(first, dataset.shard(100, 0, 1, 1, 1))
    assert not np.array_equal(first, dataset.shard(100, 0, 1, 1, 2))
    assert not np.array_equal(first, dataset.shard(100, 0, 1, 2, 1))


def test_a_picture_is_cropped_alike_whichever_rank_gets_it(small_dataset: Path) -> None:
    pictures = dataset.open_pictures(str(small_dataset), dataset.TRAIN)
    one = next(dataset.training_batches(pictures, 32, 8, 0, 1, 1, 1))
    two = [next(dataset.training_batches(pictures, 32, 4, rank, 2, 1, 1)) for rank in range(2)]
    for whole_batch, halves in zip(one, zip(*two)):
        assert np.array_equal(whole_batch, np.stack(halves, axis=1).reshape(whole_batch.shape))


def test_a_resumed_epoch_goes_on_with_the_batch_where_it_stopped(small_dataset: Path) -> None:
    pictures = dataset.open_pictures(str(small_dataset), dataset.TRAIN)
    unbroken = list(dataset.training_batches(pictures, 32, 32, 0, 1, 1, 1))
    resumed = list(dataset.training_batches(pictures, 32, 32, 0, 1, 1, 1, skip=3))
    assert len(unbroken) == 4 and len(resumed) == 1
    for expected, got in zip(unbroken[3], resumed[0]):
        assert np.array_equal(expected, got)


def test_pictures_are_read_across_files_of_any_number_of_records(tmp_path: Path) -> None:
    write(
        tmp_path,
        dataset.TRAIN,
        data_batch_1=records([1, 2, 3]),
        data_batch_2=records([4]),
        data_batch_3=records([5, 6]),
        batches_meta=b"no pictures",
    )
    pictures = dataset.open_pictures(str(tmp_path), dataset.TRAIN)
    assert len(pictures) == 6
    pixels, labels = pictures.read(np.array([5, 0, 3, 3]))
    assert labels.tolist() == [6, 1, 4, 4]
    assert pixels.shape == (4, 3, 32, 32)
    assert pixels[:, 0, 0, 0].tolist() == [42, 7, 28, 28]


@given(st.integers(1, 40), st.integers(1, 17))
def test_evaluation_counts_every_picture_exactly_once(count: int, batch: int) -> None:
    pictures = whole(count)
    seen = []
    for images, labels, counting in dataset.test_batches(pictures, 32, batch):
        assert images.shape == (batch, 3, 32, 32)
        assert labels.shape == (batch,)
        seen += labels[:counting].tolist()
    assert seen == list(range(count))


def test_preparing_normalises_each_colour_by_the_published_mean_and_deviation() -> None:
    pixels = np.full((1, 3, 32, 32), 255, np.uint8)
    out = dataset.prepare(pixels, 32)
    assert out.dtype == np.float32
    assert np.allclose(out[0, :, 0, 0], (1 - dataset.MEAN) / dataset.DEVIATION)
    assert np.allclose(dataset.prepare(pixels, 48), out[0, :, :1, :1], atol=1e-5)  # an even picture stays even


@given(st.integers(1, 2), st.integers(1, 80) | st.just(224))
def test_preparing_is_normalising_then_resizing_rows_and_columns(count: int, size: int) -> None:
    pixels = np.random.default_rng(size).integers(0, 256, (count, 3, 32, 32)).astype(np.uint8)
    scaled = (pixels / 255.0 - dataset.MEAN[:, None, None]) / dataset.DEVIATION[:, None, None]
    weights = dataset.resize_weights(32, size).astype(np.float64)
    out = dataset.prepare(pixels, size)
    assert out.dtype == np.float32 and out.flags.c_contiguous
    assert np.allclose(out, weights @ scaled @ weights.T, rtol=1e-6, atol=1e-6)


@given(st.integers(4, 64), st.integers(4, 64))
def test_resizing_keeps_the_mean_weight_of_a_row_and_one_size_unchanged(before: int, after: int) -> None:
    weights = dataset.resize_weights(before, after)
    assert weights.shape == (after, before)
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-6)
    assert np.array_equal(dataset.resize_weights(before, before), np.eye(before, dtype=np.float32))


def test_halving_a_picture_follows_pillows_bilinear_weights() -> None:
    assert np.allclose(dataset.resize_weights(8, 4)[1], np.array([0, 1, 3, 3, 1, 0, 0, 0]) / 8)


def test_a_crop_without_a_shift_is_the_picture_and_a_flip_mirrors_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32)).astype(np.uint8)
    cut = dataset.crop(pixels, np.array([[4, 4], [0, 8]]), np.array([True, False]))
    assert np.array_equal(cut[0], pixels[0, :, :, ::-1])
    assert np.array_equal(cut[1, :, 4:, :28], pixels[1, :, :28, 4:])
    assert not cut[1, :, :4].any()


def test_what_is_wrong_with_a_dataset_is_said_in_one_line(tmp_path: Path) -> None:
    def complaint() -> str:
        with pytest.raises(InputError) as raised:
            dataset.open_pictures(str(tmp_path), dataset.TRAIN)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "missing" in complaint()
    os.mkdir(tmp_path / dataset.TRAIN[0])
    assert "no data_batch_*.bin" in complaint()
    write(tmp_path, dataset.TRAIN, data_batch_1=records([1, 2])[:-1])
    assert "6145 bytes" in complaint()
    assert "cut it to 3073" in complaint()
    for short in (b"", records([1])[:-1]):
        write(tmp_path, dataset.TRAIN, data_batch_1=short)
        assert f"{len(short)} bytes" in complaint()
        assert complaint().endswith("fetch it again")


def test_the_first_label_that_is_no_class_is_named_with_its_file(tmp_path: Path) -> None:
    write(tmp_path, dataset.TRAIN, data_batch_1=records([1, 2]), data_batch_2=records([3, 10, 9, 11]))
    pictures = dataset.open_pictures(str(tmp_path), dataset.TRAIN)
    dataset.check_labels(pictures, 12)
    with pytest.raises(InputError, match=r"data_batch_2\.bin: picture 1 has label 10, but class_num is 10"):
        dataset.check_labels(pictures, 10)


def test_too_few_pictures_for_one_step_are_refused(small_dataset: Path) -> None:
    pictures = dataset.open_pictures(str(small_dataset), dataset.TRAIN)
    assert dataset.steps_per_epoch(pictures, 65, 2) == 1
    with pytest.raises(InputError, match="lower --batch_size"):
        dataset.steps_per_epoch(pictures, 66, 2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dataset_path=nowhere"], "missing"),
        ([], "--dataset_path is required"),
    ],
)
def test_a_missing_dataset_ends_training_with_exit_code_2(run_module, arguments: list[str], says: str) -> None:
    done = run_module("sknet.train", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
