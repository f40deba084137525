from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sknet import dataset, sample
from sknet.errors import InputError


def test_the_same_arguments_give_the_same_bytes_and_another_seed_gives_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        sample.make(tmp_path / name, 20, 10, seed)
    a, b, c = ((tmp_path / name / sample.TRAIN_FILE).read_bytes() for name in "abc")
    assert a == b != c
    assert len(a) == 20 * dataset.RECORD


def test_training_and_test_pictures_differ_and_every_class_is_there(tmp_path: Path) -> None:
    sample.make(tmp_path, 30, 30)
    train = dataset.open_pictures(str(tmp_path), dataset.TRAIN).read(np.arange(30))
    test = dataset.open_pictures(str(tmp_path), dataset.TEST).read(np.arange(30))
    assert not np.array_equal(train[0], test[0])
    assert np.bincount(train[1]).tolist() == [3] * 10


def test_making_it_again_changes_nothing(tmp_path: Path) -> None:
    sample.make(tmp_path, 20, 10)
    before = (tmp_path / sample.TRAIN_FILE).stat().st_mtime_ns
    sample.make(tmp_path, 20, 10)
    assert (tmp_path / sample.TRAIN_FILE).stat().st_mtime_ns == before


def test_a_dataset_that_it_did_not_make_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin"
    precious.parent.mkdir()
    precious.write_bytes(b"mine")
    with pytest.raises(InputError, match="choose another folder"):
        sample.make(tmp_path, 20, 10)
    sample.make(tmp_path / "own", 20, 10)
    with pytest.raises(InputError, match="choose another folder"):
        sample.make(tmp_path / "own", 30, 10)
    assert precious.read_bytes() == b"mine"
    assert not (tmp_path / "cifar-10-verify-bin").exists()


def test_no_pictures_at_all_are_refused(run_module, tmp_path: Path) -> None:
    done = run_module("sknet.sample", "here", "--train", "0")
    assert done.returncode == 2
    assert not (tmp_path / "here").exists()
