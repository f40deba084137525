from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from sknet.checkpoint import Keeper, Origin, find, load, prepare_folder, read
from sknet.errors import InputError, SknetError
from sknet.model import build


def origin(epoch: int, step: int = 4) -> Origin:
    return Origin("sknet_tiny", 10, 32, epoch, step)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    net, other = build("sknet_tiny", 10, seed=1), build("sknet_tiny", 10, seed=2)
    saved = Keeper(tmp_path, 3).save(net, origin(2))
    assert saved.path == tmp_path / "sknet_tiny-2_4.ckpt"
    assert saved.bytes == saved.path.stat().st_size
    weights, said = read(saved.path)
    assert said == origin(2)
    load(other, weights, saved.path)
    for ours, theirs in zip(net.get_parameters(), other.get_parameters(), strict=True):
        assert np.array_equal(ours.asnumpy(), theirs.asnumpy())


def test_only_the_newest_of_this_run_are_kept_and_nothing_else_is_deleted(tmp_path: Path) -> None:
    of_another_run = tmp_path / "sknet_tiny-99_1.ckpt"
    of_another_run.write_bytes(b"precious")
    keeper = Keeper(tmp_path, 2)
    for epoch in range(1, 12):
        keeper.save(build("sknet_tiny", 10), origin(epoch))
    assert [path.name for path in find(tmp_path)] == [f"sknet_tiny-{name}.ckpt" for name in ("10_4", "11_4", "99_1")]
    assert sorted(os.listdir(tmp_path)) == sorted(path.name for path in find(tmp_path))


def test_a_reader_meets_whole_files_only(tmp_path: Path) -> None:
    net = build("sknet_tiny", 10)
    sizes, stop = set(), threading.Event()

    def watch() -> None:
        while not stop.is_set():
            sizes.update(path.stat().st_size for path in tmp_path.glob("sknet_tiny-*.ckpt"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    keeper = Keeper(tmp_path, 100)
    whole = {keeper.save(net, origin(1 + number % 2)).bytes for number in range(20)}
    stop.set()
    watcher.join()
    assert sizes <= whole


def test_a_failing_write_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "gone", 1)
    with pytest.raises(SknetError, match=r"cannot write checkpoint .*sknet_tiny-1_4\.ckpt"):
        keeper.save(build("sknet_tiny", 10), origin(1))


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="save_checkpoint_path"):
        prepare_folder(tmp_path / "file" / "ckpt")
    prepare_folder(tmp_path / "new" / "ckpt")
    assert os.listdir(tmp_path / "new" / "ckpt") == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_checkpoint_cut_short_is_refused_in_one_line(tmp_path: Path, share: float) -> None:
    path = Keeper(tmp_path, 1).save(build("sknet_tiny", 10), origin(1)).path
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(InputError) as raised:
        weights, _ = read(path)
        load(build("sknet_tiny", 10), weights, path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = Keeper(tmp_path, 1).save(build("sknet_tiny", 10), origin(1)).path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        read(path)


def test_a_checkpoint_of_another_class_count_says_which_tensor_differs(tmp_path: Path) -> None:
    path = Keeper(tmp_path, 1).save(build("sknet_tiny", 10), origin(1)).path
    weights, _ = read(path)
    with pytest.raises(InputError, match=r"2 of \d+ tensors differ, first head.weight, \(10, 64\) in the file"):
        load(build("sknet_tiny", 7), weights, path)


def test_checkpoints_are_found_in_the_order_of_epoch_and_step(tmp_path: Path) -> None:
    for name in ("a-10_1.ckpt", "a-2_12.ckpt", "a-2_3.ckpt", ".a-1_1.7.unfinished.ckpt", "notes.txt"):
        (tmp_path / name).write_text("")
    assert [path.name for path in find(tmp_path)] == ["a-2_3.ckpt", "a-2_12.ckpt", "a-10_1.ckpt"]
    with pytest.raises(InputError, match="no checkpoint at"):
        find(tmp_path / "none")
    os.mkdir(tmp_path / "empty")
    with pytest.raises(InputError, match="no checkpoint named"):
        find(tmp_path / "empty")
