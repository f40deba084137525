"""What is exported runs, says what it is, and gives the net's own logits; what would not is not left behind."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import mindspore as ms
import numpy as np
import onnx
import onnxruntime
import pytest

from sknet import checkpoint, export, runtime
from sknet.dataset import TEST, open_pictures, prepare
from sknet.description import sha256_of
from sknet.errors import InputError, SknetError
from sknet.model import build
from tests.sknet.models import save_trained

CPU = runtime.Given(device_target="CPU")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_trained(tmp_path_factory.mktemp("tiny"))


def pictures(count: int, image_size: int = 32) -> np.ndarray:
    rng = np.random.default_rng(count)
    return prepare(rng.integers(0, 256, (count, 3, 32, 32), np.uint8), image_size)


def logits(path: Path, images: np.ndarray) -> np.ndarray:
    """Return the logits of a checkpoint without any of the code under test."""
    origin = checkpoint.origin_of(path)
    assert origin is not None
    net = build(origin.net, origin.class_num)
    ms.load_param_into_net(net, ms.load_checkpoint(str(path)))
    net.set_train(False)
    found: np.ndarray = net(ms.Tensor(images)).asnumpy()
    return found


@pytest.mark.parametrize("image_size", [32, 48])
def test_onnx_gives_the_logits_of_mindspore_for_any_number_of_pictures(tmp_path: Path, image_size: int) -> None:
    source = save_trained(tmp_path, class_num=7, image_size=image_size)
    target = tmp_path / "model.onnx"
    export.export(source, target, "ONNX", CPU, None, force=False)
    onnx.checker.check_model(str(target), full_check=True)
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, image_size, image_size]
    images = pictures(33, image_size)
    wanted = logits(source, images)
    assert np.abs(wanted).max() > 0.5, "weights that tell something"
    for count in (1, 2, 33):
        found = session.run(None, {session.get_inputs()[0].name: images[:count]})[0]
        assert np.abs(found - wanted[:count]).max() < 1e-4


@pytest.mark.timeout(600)
def test_sknet50_as_onnx_agrees_with_mindspore(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save_trained(tmp_path, "sknet50")
    target = tmp_path / "model.onnx"
    export.export(source, target, "ONNX", CPU, None, force=False)
    assert "checked: onnxruntime" in capsys.readouterr().out
    images = pictures(5)
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    wanted = logits(source, images)
    assert 0.5 < np.abs(wanted).max() < 50
    assert np.abs(session.run(None, {session.get_inputs()[0].name: images})[0] - wanted).max() < 1e-4


def test_mindir_gives_the_same_logits_for_any_number_of_pictures(tmp_path: Path, tiny: Path) -> None:
    target = tmp_path / "model.mindir"
    export.export(tiny, target, "MINDIR", CPU, None, force=False)
    run = runtime.open_mindir(target, CPU)
    images = pictures(33)
    wanted = logits(tiny, images)
    for count in (1, 2, 33):
        assert np.abs(run(images[:count]) - wanted[:count]).max() < 1e-4


def test_a_batch_size_that_is_given_is_the_only_one_the_model_takes(tmp_path: Path, tiny: Path) -> None:
    target = tmp_path / "model.onnx"
    export.export(tiny, target, "ONNX", CPU, 2, force=False)
    description, run = runtime.open_onnx(target)
    assert description.batch_size == 2
    assert np.abs(run(pictures(2)) - logits(tiny, pictures(2))).max() < 1e-4
    with pytest.raises(InputError, match=r"cannot run on pictures \(3, 3, 32, 32\)"):
        run(pictures(3))


@pytest.mark.parametrize(("file_format", "suffix"), [("ONNX", ".onnx"), ("MINDIR", ".mindir")])
def test_what_the_model_is_stands_beside_it(
    tmp_path: Path, tiny: Path, small_dataset: Path, file_format: str, suffix: str
) -> None:
    target = tmp_path / f"model{suffix}"
    given = runtime.Given(device_target="CPU", dataset_path=str(small_dataset))
    export.export(tiny, target, file_format, given, None, force=False)
    told = json.loads((tmp_path / f"model{suffix}.json").read_text())
    assert (told["net"], told["image_size"], told["class_num"], len(told["classes"])) == ("sknet_tiny", 32, 10, 10)
    assert told["mean"] == [0.4914, 0.4822, 0.4465] and told["deviation"] == [0.2023, 0.1994, 0.201]
    assert (told["checkpoint"], told["checkpoint_sha256"]) == (tiny.name, sha256_of(tiny))
    assert (told["epoch"], told["step"], told["sha256"]) == (2, 7, sha256_of(target))
    assert told["versions"]["mindspore"] == ms.__version__
    assert told["check"]["difference"] < 1e-4 and told["check"]["pictures"] == 64, "noise and real ones"
    assert sorted(path.name for path in tmp_path.iterdir()) == [target.name, f"{target.name}.json"], "nothing else"
    if suffix == ".onnx":
        embedded = {entry.key: json.loads(entry.value) for entry in onnx.load(target).metadata_props}
        assert embedded["sknet.classes"] == told["classes"] and embedded["sknet.checkpoint_sha256"] == sha256_of(tiny)


def test_ten_classes_without_names_are_cifar_10s_and_others_are_numbered(tiny: Path) -> None:
    assert runtime.open_model(tiny, CPU).description.classes == tuple("0123456789")
    assert runtime.described(checkpoint.Origin("sknet_tiny", 3, 32, 1, 1), None).classes == ("0", "1", "2")


def test_a_model_that_differs_from_the_net_is_refused_and_leaves_nothing(tmp_path: Path, tiny: Path) -> None:
    target = tmp_path / "model.onnx"
    export.export(tiny, target, "ONNX", CPU, None, force=False)
    model = onnx.load(target)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "head.bias")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) + np.float32(0.02), weight.name))
    onnx.save(model, target)
    net, _ = runtime.load_checkpoint(tiny, CPU)
    description, wrong = runtime.open_onnx(target)
    with pytest.raises(SknetError, match=r"run by onnxruntime, its logits differ from the net's by 2.0e-02"):
        export.compare(runtime.logits_of(net), wrong, description, export.check_pictures(None), "ONNX")


def test_weights_that_are_no_numbers_are_not_exported(tmp_path: Path) -> None:
    net = build("sknet_tiny", 10)
    net.head.bias.set_data(ms.Tensor(np.full(10, np.nan, np.float32)))
    source = tmp_path / "sknet_tiny-1_1.ckpt"  # a Keeper does not write such a one
    origin = checkpoint.Origin("sknet_tiny", 10, 32, 1, 1)
    ms.save_checkpoint(net, str(source), append_dict=asdict(origin), crc_check=True)
    before = set(tmp_path.iterdir())
    with pytest.raises(InputError, match="the training of this checkpoint diverged"):
        export.export(source, tmp_path / "model.mindir", "MINDIR", CPU, None, force=False)
    assert set(tmp_path.iterdir()) == before


def test_a_file_that_exists_is_replaced_only_by_force(tmp_path: Path, tiny: Path) -> None:
    target = tmp_path / "model.mindir"
    target.write_text("mine")
    with pytest.raises(InputError, match=r"model.mindir exists already; --force replaces it"):
        export.export(tiny, target, "MINDIR", CPU, None, force=False)
    assert target.read_text() == "mine"
    export.export(tiny, target, "MINDIR", CPU, None, force=True)
    assert target.stat().st_size > 50_000


def test_names_that_mindspore_refuses_can_be_exported_to(tmp_path: Path, tiny: Path) -> None:
    folder = tmp_path / "my models (é)"
    folder.mkdir()
    for file_format, suffix in (("ONNX", ".onnx"), ("MINDIR", ".mindir")):
        export.export(tiny, folder / f"net; 1{suffix}", file_format, CPU, None, force=False)
        model = runtime.open_model(folder / f"net; 1{suffix}", CPU)
        assert model.logits(pictures(1)).shape == (1, 10)


def test_the_published_command_line_works(
    tmp_path: Path, tiny: Path, run_module: Callable[..., subprocess.CompletedProcess[str]], small_dataset: Path
) -> None:
    done = run_module(
        "sknet.export", "--ckpt_file", str(tiny), "--file_name=sknet_export", "--file_format", "onnx", "--width=32",
        "--height=32", "--device_target=CPU", f"--dataset_path={small_dataset}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "checked: onnxruntime" in done.stdout and (tmp_path / "sknet_export.onnx").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--file_format=AIR"], "AIR can only be exported on an Ascend device, and none is here"),
        (["--file_format=tflite"], "invalid choice: 'TFLITE'"),
        (["--width=32", "--height=64"], "the net takes square pictures, not 32 and 64 pixels"),
        (["--class_num=7"], "head.weight"),
        (["--net=sknet26"], "does not fit this net"),
        (["--batch_size=0"], "batch_size 0 must be at least 1"),
        (["--file_name=no/where"], "cannot write no/where.mindir: No such file or directory"),
        (["--dataset_path=nowhere"], "no dataset at nowhere"),
        (["--lr=1"], "unrecognized arguments: --lr=1"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(
    tiny: Path, arguments: "list[str]", words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([f"--checkpoint_path={tiny}", *arguments], {}) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and said.startswith("sknet.export: ")


@pytest.mark.parametrize("what", ["missing", "truncated", "text"])
def test_a_checkpoint_that_is_none_is_refused_in_one_line(
    tmp_path: Path, tiny: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sknet_tiny-1_1.ckpt"
    if what != "missing":
        path.write_bytes(tiny.read_bytes()[:-1000] if what == "truncated" else b"no checkpoint")
    assert export.main([f"--checkpoint_path={path}"], {}) == 2
    said = capsys.readouterr().err
    assert str(path) in said and said.count("\n") == 1
    assert not list(tmp_path.glob("*mindir*"))


def test_the_check_reads_real_pictures_of_the_dataset(small_dataset: Path) -> None:
    real = open_pictures(str(small_dataset), TEST).read(np.arange(32))[0]
    assert np.array_equal(export.check_pictures(str(small_dataset))[32:], real)
