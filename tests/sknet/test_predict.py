"""Predictions: the same from all three forms of a model, for any picture; a bad one costs a line and no more."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sknet import export, predict, runtime
from sknet.checkpoint import Keeper, Origin, tensors_of
from sknet.dataset import TEST, open_pictures
from sknet.errors import InputError
from sknet.model import build
from sknet.pictures import read, read_all
from tests.sknet.conftest import ROOT, plain_environment
from tests.sknet.models import save_trained

CPU = runtime.Given(device_target="CPU")
RED = (200, 30, 60)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model in its three forms: model.ckpt, model.onnx, model.mindir."""
    folder = tmp_path_factory.mktemp("models")
    save_trained(folder).rename(folder / "model.ckpt")
    for file_format, suffix in (("ONNX", ".onnx"), ("MINDIR", ".mindir")):
        export.export(folder / "model.ckpt", folder / f"model{suffix}", file_format, CPU, None, force=False)
    return folder


@pytest.fixture(scope="module")
def folder_of_pictures(tmp_path_factory: pytest.TempPathFactory, small_dataset: Path) -> Path:
    """Five pictures of the dataset as PNG, 0.png to 4.png."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, pixels in enumerate(open_pictures(str(small_dataset), TEST).read(np.arange(5))[0]):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{number}.png")
    return folder


def records(text: str) -> "list[dict[str, object]]":
    return [json.loads(line) for line in text.splitlines()]


def test_all_forms_of_a_model_say_the_same_of_a_picture(
    models: Path, folder_of_pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for suffix in (".ckpt", ".onnx", ".mindir"):
        words = ["--model", str(models / f"model{suffix}"), "--json", "--top=10", "--batch_size=2"]
        assert predict.main([*words, str(folder_of_pictures)], {}) == 0
        said.append(records(capsys.readouterr().out))
    names = [str(folder_of_pictures / f"{number}.png") for number in range(5)]
    for one in said:
        assert [record["picture"] for record in one] == names
        for record, reference in zip(one, said[0]):
            by_class = {guess["class"]: guess["probability"] for guess in record["classes"]}
            assert sum(by_class.values()) == pytest.approx(1)
            for guess in reference["classes"]:
                assert by_class[guess["class"]] == pytest.approx(guess["probability"], abs=1e-5)


def test_a_picture_of_the_dataset_gets_the_logits_that_evaluation_gives_it(
    models: Path, folder_of_pictures: Path, small_dataset: Path
) -> None:
    from sknet.dataset import test_batches

    model = runtime.open_model(models / "model.onnx", CPU)
    images, _, _ = next(test_batches(open_pictures(str(small_dataset), TEST), 32, 5))
    wanted = predict.softmax(model.logits(images))
    found = list(predict.predict(model, [folder_of_pictures], 32, 10))
    for record, chances in zip(found, wanted, strict=True):
        assert {guess["label"]: guess["probability"] for guess in record["classes"]} == pytest.approx(
            dict(enumerate(chances))
        )


def test_the_likeliest_classes_come_first_and_no_more_than_were_asked_for(
    models: Path, folder_of_pictures: Path
) -> None:
    model = runtime.open_model(models / "model.onnx", CPU)
    for record in predict.predict(model, [folder_of_pictures], 32, 3):
        chances = [guess["probability"] for guess in record["classes"]]
        assert len(chances) == 3 and chances == sorted(chances, reverse=True) and chances[0] > 0.1


def test_a_model_for_one_batch_size_takes_any_number_of_pictures(
    tmp_path: Path, models: Path, folder_of_pictures: Path
) -> None:
    fixed = tmp_path / "fixed.onnx"
    export.export(models / "model.ckpt", fixed, "ONNX", CPU, 4, force=False)
    of_four = list(predict.predict(runtime.open_model(fixed, CPU), [folder_of_pictures], 32, 1))
    of_any = list(predict.predict(runtime.open_model(models / "model.onnx", CPU), [folder_of_pictures], 32, 1))
    for one, other in zip(of_four, of_any, strict=True):
        assert one["classes"][0]["probability"] == pytest.approx(other["classes"][0]["probability"], abs=1e-5)


def test_no_more_than_one_batch_of_pictures_is_held(models: Path, folder_of_pictures: Path) -> None:
    opened = []

    def paths() -> "Iterator[Path]":
        for number in range(5):
            opened.append(number)
            yield folder_of_pictures / f"{number}.png"

    told = predict.predict(runtime.open_model(models / "model.onnx", CPU), paths(), 2, 1)
    next(told)
    assert opened == [0, 1]


def test_onnx_is_predicted_without_mindspore(models: Path, folder_of_pictures: Path) -> None:
    program = (
        "import sys\nsys.modules['mindspore'] = None\nfrom sknet import predict\n"
        f"sys.exit(predict.main(['--model={models}/model.onnx', {str(folder_of_pictures)!r}], {{}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, env=plain_environment(), timeout=300
    )
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 5, done.stderr


# ── pictures ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif", "webp", "ppm", "jpg"])
@pytest.mark.parametrize("size", [(32, 32), (1, 1), (640, 37)])
def test_a_picture_of_any_format_and_size_keeps_its_colour(
    tmp_path: Path, suffix: str, size: "tuple[int, int]"
) -> None:
    path = tmp_path / f"picture.{suffix}"
    Image.new("RGB", size, RED).save(path)
    pixels = read(path)
    assert pixels.shape == (3, 32, 32) and pixels.dtype == np.uint8
    assert np.abs(pixels.reshape(3, -1).T.astype(int) - RED).max() <= 4, "JPEG and WEBP may round"


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16", "YCbCr"])
def test_a_picture_of_any_colour_mode_is_read(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("picture.tif" if mode in ("CMYK", "YCbCr") else "picture.png")
    grey = np.full((40, 40), 200 if mode != "1" else 255, np.uint8)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(path)
    assert np.abs(read(path).astype(int) - int(grey[0, 0])).max() <= 2


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(tmp_path / "picture.png")
    assert (read(tmp_path / "picture.png") == 255).all()


def test_a_picture_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 3  # Orientation: turned by 180 degrees
    Image.fromarray(upright[::-1, ::-1]).save(tmp_path / "picture.png", exif=exif)
    assert np.array_equal(read(tmp_path / "picture.png"), upright.transpose(2, 0, 1))


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that only claims to be so large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(
        b"IDAT", zlib.compress(b"")
    )  # fmt: skip


def whole_jpeg(path: Path) -> bytes:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path, "JPEG")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("text.png", lambda path: b"no picture\n" * 50, "no picture that can be read"),
        ("empty.png", lambda path: b"", "no picture that can be read"),
        ("cut.jpg", lambda path: whole_jpeg(path)[:-900], "cut short or damaged"),
        ("bomb.png", lambda path: png_header(20_000, 20_000), "more than 100,000,000"),
        ("large.png", lambda path: png_header(12_000, 12_000), "12000 x 12000 pixels"),
        ("script.eps", lambda path: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture that can be"),
    ],
)
def test_what_is_no_picture_is_named_in_one_line(
    tmp_path: Path, name: str, content: "Callable[[Path], bytes]", words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content(path))
    with pytest.raises(InputError, match=words) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_places_without_pictures_are_named_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "empty").mkdir()
    wrong = [tmp_path / "pipe.png", tmp_path / "empty", tmp_path / "missing.png", Path("/dev/zero")]
    said = [str(outcome) for _, outcome in read_all(wrong)]
    assert ["no regular file" in said[0], "a folder without pictures" in said[1]] == [True, True]
    assert ["No such file" in said[2], "no regular file" in said[3]] == [True, True]


def test_bad_pictures_cost_a_line_each_and_the_good_ones_are_predicted(
    tmp_path: Path, models: Path, folder_of_pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    words = [str(folder_of_pictures / "0.png"), str(bad), "missing.png", str(folder_of_pictures / "1.png")]
    assert predict.main([f"--model={models}/model.onnx", "--json", *words], {}) == 2
    said = records(capsys.readouterr().out)
    assert sorted(record["picture"] for record in said if "error" in record) == sorted([str(bad), "missing.png"])
    assert [record["picture"] for record in said if "classes" in record] == [words[0], words[3]]
    assert predict.main([f"--model={models}/model.onnx", *words], {}) == 2
    written = capsys.readouterr()
    assert len(written.out.splitlines()) == 2 and len(written.err.splitlines()) == 2


def test_a_picture_may_have_a_name_that_is_not_utf_8(models: Path, folder_of_pictures: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(name, "wb") as file:
        file.write((folder_of_pictures / "0.png").read_bytes())
    command = [sys.executable, "-m", "sknet.predict", f"--model={models}/model.onnx", name]
    done = subprocess.run(command, capture_output=True, text=True, env=plain_environment(), timeout=300)
    assert done.returncode == 0, done.stderr
    assert r"caf\udce9.png: " in done.stdout


# ── models ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("suffix", [".ckpt", ".onnx", ".mindir"])
@pytest.mark.parametrize("damage", ["cut", "bytes", "missing", "folder"])
def test_a_damaged_model_is_refused_in_one_line(
    tmp_path: Path, models: Path, suffix: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"model{suffix}"
    content = (models / path.name).read_bytes()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        middle = len(content) // 2
        path.write_bytes(content[:middle] if damage == "cut" else content[:middle] + b"damage" + content[middle + 6 :])
        if suffix != ".ckpt":
            (tmp_path / f"{path.name}.json").write_bytes((models / f"{path.name}.json").read_bytes())
    assert predict.main([f"--model={path}", "any.png"], {}) == 2
    said = capsys.readouterr().err
    assert str(path) in said and said.count("\n") == 1


def test_onnx_needs_no_file_beside_it_and_mindir_says_that_it_does(tmp_path: Path, models: Path) -> None:
    for suffix in (".onnx", ".mindir"):
        (tmp_path / f"model{suffix}").write_bytes((models / f"model{suffix}").read_bytes())
    assert runtime.open_model(tmp_path / "model.onnx", CPU).description.net == "sknet_tiny"
    with pytest.raises(InputError, match=r"model.mindir.json is missing"):
        runtime.open_model(tmp_path / "model.mindir", CPU)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": 10**9}, "image_size 1000000000 must be at most 1024"),
        ({"mean": [0, 0, 0]}, "its pictures are prepared otherwise than here: mean"),
        ({"classes": None}, "does not describe a model"),
        ({"classes": ["one", "two"]}, "the model gives 10 classes, its description 2"),
    ],
)
def test_a_description_that_cannot_be_is_refused(
    tmp_path: Path, models: Path, folder_of_pictures: Path, change: "dict[str, object]", words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "model.onnx").write_bytes((models / "model.onnx").read_bytes())
    told = json.loads((models / "model.onnx.json").read_text())
    (tmp_path / "model.onnx.json").write_text(json.dumps({**told, **change}))
    assert predict.main([f"--model={tmp_path}/model.onnx", str(folder_of_pictures)], {}) == 2
    assert words in capsys.readouterr().err


def test_an_onnx_model_of_somebody_else_is_refused(tmp_path: Path, models: Path) -> None:
    import onnx

    model = onnx.load(models / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="did not write it"):
        runtime.open_model(tmp_path / "other.onnx", CPU)


@pytest.mark.parametrize(
    ("inputs", "shape", "words"),
    [([], (1, 10), "cannot run on pictures"), (["pictures"], (), "the model gives no classes, its description 10")],
)
def test_an_onnx_model_of_another_form_is_refused_in_one_line(
    tmp_path: Path, models: Path, folder_of_pictures: Path, inputs: "list[str]", shape: "tuple[int, ...]", words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor("logits", TensorProto.FLOAT, shape, [0.0] * int(np.prod(shape)))
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["logits"], value=value)],
        "other",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    whole = onnx.load(models / "model.onnx")
    whole.graph.CopyFrom(graph)
    onnx.save(whole, tmp_path / "other.onnx")
    assert predict.main([f"--model={tmp_path}/other.onnx", str(folder_of_pictures)], {}) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        (Origin("another", 10, 32, 1, 1), "net 'another' must be one of"),
        (Origin("sknet_tiny", 10**7, 32, 1, 1), "class_num 10000000 must be at most 256"),
        (Origin("sknet_tiny", 10, 10**6, 1, 1), "image_size 1000000 must be at most 1024"),
    ],
)
def test_a_checkpoint_of_a_net_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path, origin: Origin, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Keeper(tmp_path, 1).save(tensors_of(build("sknet_tiny", 10)), origin).path
    assert predict.main([f"--model={path}", "any.png"], {}) == 2
    said = capsys.readouterr().err
    assert str(path) in said and words in said and said.count("\n") == 1
