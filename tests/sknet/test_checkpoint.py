from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import threading
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import ops

from sknet.checkpoint import (
    STATE,
    UNFINISHED,
    Course,
    Keeper,
    Origin,
    check_fit,
    describe,
    find,
    load,
    origin_of,
    prepare_folder,
    read,
    read_all,
    sidecar_of,
    tensors_of,
    verify,
)  # fmt: skip
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
    sidecars = ["sknet_tiny-10_4.json", "sknet_tiny-11_4.json"]
    assert sorted(os.listdir(tmp_path)) == sorted([*(path.name for path in find(tmp_path)), *sidecars])


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
        for host, pid in ((here, gone.pid), (here, 10**20), (here, os.getpid()), (here, 1), (elsewhere, gone.pid))
    }
    for path in left.values():
        path.write_bytes(b"half")
        path.with_suffix(".tmp").write_bytes(b"quarter")  # MindSpore's own
    prepare_folder(tmp_path)
    dead = {(here, gone.pid), (here, 10**20)}
    assert {key for key, path in left.items() if not path.exists()} == dead
    assert {key for key, path in left.items() if not path.with_suffix(".tmp").exists()} == dead


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
    with pytest.raises(InputError) as raised:
        load(tensors_of(build("sknet_tiny", 7)), read(path), path)
    assert str(raised.value) == (
        f"{path} does not fit this net: 2 of 77 tensors differ, head.weight (10, 64) in the file, (7, 64) here; "
        "head.bias (10,) in the file, (7,) here; check --net and --class_num"
    )


def test_a_checkpoint_of_another_net_names_the_first_three_tensors_that_differ(tmp_path: Path) -> None:
    path = Keeper(tmp_path, 1).save(tiny(), origin(1)).path
    wanted = {f"stages.{number}.weight": (number, 3) for number in range(9)}
    with pytest.raises(InputError, match=r"9 of 9 tensors differ, first stages\.0\.weight missing") as raised:
        check_fit(wanted, describe(path).shapes, path)
    assert str(raised.value).count("in the file") == 3


def test_the_state_of_the_optimiser_is_in_the_file_and_not_among_the_weights(tmp_path: Path) -> None:
    course = Course("a run", 4, 2, 130, 3.25, {"batch_size": 16, "lr_max": 0.1})
    moment = ms.Parameter(ms.Tensor(np.arange(6, dtype=np.float32).reshape(2, 3)), name="m")
    count = ms.Parameter(ms.Tensor(7, ms.int32), name="c")
    tensors = {**tiny(), STATE + "moment.head.weight": moment, STATE + "loss_scale.good": count}
    path = Keeper(tmp_path, 1).save(tensors, origin(3), course).path
    assert set(read(path)) == set(describe(path).shapes) == set(tiny())
    assert (describe(path).origin, describe(path).course) == (origin(3), course)
    stored = read_all(path)
    assert np.array_equal(stored[STATE + "moment.head.weight"].asnumpy(), moment.asnumpy())
    assert stored[STATE + "loss_scale.good"].asnumpy() == 7
    assert stored[STATE + "loss_scale.good"].dtype == ms.int32


def test_the_sidecar_says_what_is_in_the_checkpoint_and_verifies_it(tmp_path: Path) -> None:
    course = Course("a run", 10, 2, 400, 6.0, {"batch_size": 16})
    saved = Keeper(tmp_path, 1).save(tiny(), origin(3), course, lr=0.05)
    told = json.loads((tmp_path / "sknet_tiny-3_4.json").read_text())
    expected = {
        "checkpoint": "sknet_tiny-3_4.ckpt", "net": "sknet_tiny", "class_num": 10, "image_size": 32, "epoch": 3,
        "step": 4, "steps_per_epoch": 10, "global_step": 24, "ranks": 2, "global_batch": 32, "lr": 0.05,
        "metrics": {"loss": 1.5}, "bytes": saved.path.stat().st_size, "run": "a run",
        "sha256": hashlib.sha256(saved.path.read_bytes()).hexdigest(), "copy_s": saved.copy_s,
        "write_s": saved.write_s, "mindspore": ms.__version__,
    }  # fmt: skip
    assert {name: told[name] for name in expected} == expected
    assert datetime.fromisoformat(told["written_at"]).utcoffset() == timedelta(0)
    verify(saved.path)
    with open(saved.path, "r+b") as file:
        file.write(b"?")
    with pytest.raises(InputError, match="is damaged: its SHA-256"):
        verify(saved.path)
    (tmp_path / "sknet_tiny-3_4.json").write_text("{")
    with pytest.raises(InputError, match=r"has no sidecar sknet_tiny-3_4\.json"):
        verify(saved.path)


def test_training_may_change_the_tensors_while_they_are_written(tmp_path: Path) -> None:
    weight = ms.Parameter(ms.Tensor(np.zeros((4, 4), np.float32)), name="w")
    keeper, trained = Keeper(tmp_path, 5), threading.Event()
    keeper._writer.submit(trained.wait)  # nothing is written until training has gone on
    keeper.start({"w": weight}, origin(1))
    ops.assign(weight, ms.Tensor(np.ones((4, 4), np.float32))).asnumpy()  # in place, as an optimiser does
    trained.set()
    keeper.start({"w": weight}, origin(2))  # waits for the first one
    saved = keeper.close()
    assert [file.origin.epoch for file in saved] == [1, 2]
    assert [read(file.path)["w"].asnumpy().mean() for file in saved] == [0.0, 1.0]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


def test_a_write_that_failed_is_told_at_the_next_checkpoint_or_at_the_end(tmp_path: Path) -> None:
    for ask in (lambda keeper: keeper.start(tiny(), origin(2)), Keeper.close, Keeper.wait):
        keeper = Keeper(tmp_path / "gone", 1)
        keeper.start(tiny(), origin(1))
        with pytest.raises(SknetError, match=r"cannot write checkpoint .*sknet_tiny-1_4\.ckpt"):
            ask(keeper)


def test_a_resumed_run_counts_its_earlier_checkpoints_among_those_to_keep(tmp_path: Path) -> None:
    def course(run: str) -> Course:
        return Course(run, 4, 1, 130, 1.0, {"batch_size": 16})

    earlier, other = Keeper(tmp_path, 9), Keeper(tmp_path, 9)
    for epoch in (1, 2, 3):
        earlier.save(tiny(), origin(epoch), course("ours"))
    other.save(tiny(), origin(1, step=2), course("another"))
    resumed = Keeper(tmp_path, 2)
    resumed.adopt("ours", until=origin(2))
    resumed.save(tiny(), origin(2, step=6), course("ours"))
    assert [path.stem for path in find(tmp_path)] == [f"sknet_tiny-{name}" for name in ("1_2", "2_4", "2_6", "3_4")]
    assert len(list(tmp_path.glob("*.json"))) == 4


def test_weights_that_are_not_finite_are_not_written_and_displace_no_checkpoint(tmp_path: Path) -> None:
    keeper, tensors = Keeper(tmp_path, 1), tiny()
    keeper.save(tensors, origin(1))
    tensors["head.bias"].set_data(ms.Tensor(np.full(10, np.inf, np.float32)))
    with pytest.raises(SknetError, match=r"epoch 2 step 4 left numbers in head\.bias that are not finite"):
        keeper.save(tensors, origin(2))
    assert [path.name for path in find(tmp_path)] == ["sknet_tiny-1_4.ckpt"]


@pytest.mark.parametrize("change", [{"settings": ["batch_size"]}, {"loss_sum": "much"}])
def test_a_course_that_cannot_be_is_refused(tmp_path: Path, change: dict) -> None:
    course = {"run": "a run", "steps_per_epoch": 4, "ranks": 1, "pictures": 130, "loss_sum": 1.0, "settings": {}}
    entries = {**asdict(origin(1)), "course": json.dumps({**course, **change})}
    ms.save_checkpoint(build("sknet_tiny", 10), str(tmp_path / "a-1_4.ckpt"), append_dict=entries)
    with pytest.raises(InputError, match="its course cannot be"):
        describe(tmp_path / "a-1_4.ckpt")


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{"])
def test_a_sidecar_that_is_none_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "a-1_4.json").write_text(text)
    assert sidecar_of(tmp_path / "a-1_4.ckpt") == {}


def test_checkpoints_are_found_in_the_order_of_epoch_and_step(tmp_path: Path) -> None:
    for name in ("a-10_1.ckpt", "a-2_12.ckpt", "a-2_3.ckpt", ".a-1_1.host.7.unfinished.ckpt", "notes.txt"):
        (tmp_path / name).write_text("")
    assert [path.name for path in find(tmp_path)] == ["a-2_3.ckpt", "a-2_12.ckpt", "a-10_1.ckpt"]
    with pytest.raises(InputError, match="no checkpoint at"):
        find(tmp_path / "none")
    os.mkdir(tmp_path / "empty")
    with pytest.raises(InputError, match="no checkpoint named"):
        find(tmp_path / "empty")
