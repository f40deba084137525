from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sknet import dataset
from sknet.errors import InputError


def write(folder: Path, part: tuple[str, str], **files: bytes) -> None:
    (folder / part[0]).mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / part[0] / f"{name}.bin").write_bytes(data)


def records(labels: list[int]) -> bytes:
    return b"".join(bytes([label]) + bytes([label * 7 % 256]) * 3072 for label in labels)


@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 5), st.integers(0, 3), st.integers(1, 4))
def test_shards_are_disjoint_equally_long_and_whole_but_for_a_last_partial_batch(
    count: int, batch: int, ranks: int, seed: int, epoch: int
) -> None:
    shards = [dataset.shard(count, batch, rank, ranks, seed, epoch) for rank in range(ranks)]
    assert {part.shape for part in shards} == {(count // (batch * ranks), batch)}
    numbers = np.concatenate([part.ravel() for part in shards])
    assert len(set(numbers.tolist())) == len(numbers)
    assert set(numbers.tolist()) <= set(range(count))
    assert count - len(numbers) < batch * ranks


@given(st.integers(1, 200), st.integers(1, 5), st.integers(1, 4))
def test_all_ranks_together_see_in_each_step_what_one_rank_with_their_whole_batch_would(
    count: int, batch: int, ranks: int
) -> None:
    together = np.concatenate([dataset.shard(count, batch, rank, ranks, 3, 2) for rank in range(ranks)], axis=1)
    assert np.array_equal(together, dataset.shard(count, batch * ranks, 0, 1, 3, 2))


def test_every_epoch_has_an_order_of_its_own_and_a_seed_repeats_it() -> None:
    first = dataset.shard(100, 10, 0, 1, 1, 1)
    assert np.array_equal(first, dataset.shard(100, 10, 0, 1, 1, 1))
    assert not np.array_equal(first, dataset.shard(100, 10, 0, 1, 1, 2))
    assert not np.array_equal(first, dataset.shard(100, 10, 0, 1, 2, 1))


def test_a_picture_is_cropped_alike_whichever_rank_gets_it(small_dataset: Path) -> None:
    pictures = dataset.open_pictures(str(small_dataset), dataset.TRAIN)
    one = next(dataset.training_batches(pictures, 32, 8, 0, 1, 1, 1))
    two = [next(dataset.training_batches(pictures, 32, 4, rank, 2, 1, 1)) for rank in range(2)]
    assert np.array_equal(one[0], np.concatenate([images for images, _ in two]))
    assert np.array_equal(one[1], np.concatenate([labels for _, labels in two]))


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
    file = np.frombuffer(records([number for number in range(count)]), np.uint8).reshape(-1, dataset.RECORD)
    pictures = dataset.Pictures((Path("test.bin"),), (file,), np.array([count]))
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
