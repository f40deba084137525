from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from sknet.checkpoint import UNFINISHED, Keeper, Origin, find, load, origin_of, prepare_folder, read, tensors_of
from sknet.errors import InputError, SknetError
from sknet.model import build
from sknet.step import mixed_precision


def origin(epoch: int, step: int = 4) -> Origin:
    return Origin("sknet_tiny", 10, 32, epoch, step)


def tiny() -> dict[str, ms.Parameter]:
    return tensors_of(build("sknet_tiny", 10))


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    net, other = build("sknet_tiny", 10, seed=1), build("sknet_tiny", 10, seed=2)
    saved = Keeper(tmp_path, 3).save(tensors_of(net), origin(2))
    assert saved.path == tmp_path / "sknet_tiny-2_4.ckpt"
    assert saved.bytes == saved.path.stat().st_size
    assert origin_of(saved.path) == origin(2)
    load(tensors_of(other), read(saved.path), saved.path)
    for ours, theirs in zip(net.get_parameters(), other.get_parameters(), strict=True):
        assert np.array_equal(ours.asnumpy(), theirs.asnumpy())


def test_only_the_newest_of_this_run_are_kept_and_nothing_else_is_deleted(tmp_path: Path) -> None:
    of_another_run = tmp_path / "sknet_tiny-99_1.ckpt"
    of_another_run.write_bytes(b"precious")
    keeper = Keeper(tmp_path, 2)
    for epoch in range(1, 12):
        keeper.save(tiny(), origin(epoch))
    assert [path.name for path in find(tmp_path)] == [f"sknet_tiny-{name}.ckpt" for name in ("10_4", "11_4", "99_1")]
    assert sorted(os.listdir(tmp_path)) == sorted(path.name for path in find(tmp_path))


def test_a_reader_meets_whole_files_only(tmp_path: Path) -> None:
    net = tiny()
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
        keeper.save(tiny(), origin(1))


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="save_checkpoint_path"):
        prepare_folder(tmp_path / "file" / "ckpt")
    prepare_folder(tmp_path / "new" / "ckpt")
    assert os.listdir(tmp_path / "new" / "ckpt") == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_checkpoint_cut_short_is_refused_in_one_line(tmp_path: Path, share: float) -> None:
    path = Keeper(tmp_path, 1).save(tiny(), origin(1)).path
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(InputError) as raised:
        load(tiny(), read(path), path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = Keeper(tmp_path, 1).save(tiny(), origin(1)).path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    for reader in (read, origin_of):
        with pytest.raises(InputError, match="damaged"):
            reader(path)


def test_a_checkpoint_of_another_program_says_nothing_of_its_origin(tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    ms.save_checkpoint(build("sknet_tiny", 10), str(path))  # neither our entries nor a CRC
    assert origin_of(path) is None
    load(tiny(), read(path), path)


@pytest.mark.parametrize("level", ["O2", "O3"])
def test_mixed_precision_leaves_names_and_tensors_as_they_are_without_it(tmp_path: Path, level: str) -> None:
    net = build("sknet_tiny", 10, seed=2)
    tensors = tensors_of(net)
    trained = mixed_precision(net, level).trainable_params()
    assert {id(tensor) for tensor in trained} <= {id(tensor) for tensor in tensors.values()}
    path = Keeper(tmp_path, 1).save(tensors, origin(1)).path
    assert set(read(path)) == set(tiny())
    load(tensors, read(path), path)


def test_what_killed_writers_left_is_cleared_away_and_living_ones_are_left_alone(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    here, elsewhere = socket.gethostname(), "another-host"
    left = {
        (host, pid): tmp_path / UNFINISHED.format(stem="a-1_2", host=host, pid=pid)
        for host, pid in ((here, gone.pid), (here, os.getpid()), (here, 1), (elsewhere, gone.pid))
    }
    for path in left.values():
        path.write_bytes(b"half")
    prepare_folder(tmp_path)
    assert {key for key, path in left.items() if not path.exists()} == {(here, gone.pid)}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_checkpoint_is_as_open_to_others_as_the_user_wants_files_to_be(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        path = Keeper(tmp_path, 1).save(tiny(), origin(1)).path
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def test_a_checkpoint_of_another_class_count_says_which_tensor_differs(tmp_path: Path) -> None:
    path = Keeper(tmp_path, 1).save(tiny(), origin(1)).path
    with pytest.raises(InputError, match=r"2 of \d+ tensors differ, first head.weight, \(10, 64\) in the file"):
        load(tensors_of(build("sknet_tiny", 7)), read(path), path)


def test_checkpoints_are_found_in_the_order_of_epoch_and_step(tmp_path: Path) -> None:
    for name in ("a-10_1.ckpt", "a-2_12.ckpt", "a-2_3.ckpt", ".a-1_1.host.7.unfinished.ckpt", "notes.txt"):
        (tmp_path / name).write_text("")
    assert [path.name for path in find(tmp_path)] == ["a-2_3.ckpt", "a-2_12.ckpt", "a-10_1.ckpt"]
    with pytest.raises(InputError, match="no checkpoint at"):
        find(tmp_path / "none")
    os.mkdir(tmp_path / "empty")
    with pytest.raises(InputError, match="no checkpoint named"):
        find(tmp_path / "empty")
