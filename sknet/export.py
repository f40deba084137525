"""Export: `python -m sknet.export --checkpoint_path=FILE [--file_name=OUT] [--file_format=MINDIR|ONNX|AIR]`.

Only the net for inference is exported: evaluation mode, float32, no optimiser. Net, classes and image size are those
that the checkpoint records. The model takes pictures already normalised, (B, 3, S, S) float32, and gives logits; how a
picture becomes that stands in OUT.json beside it (and in the metadata of ONNX), which sknet.predict follows.

MINDIR and ONNX are run again, by MindSpore and by onnxruntime, and must agree with the net within 1e-4, or nothing is
left. A model takes any number of pictures at once unless --batch_size fixes it; AIR needs an Ascend host.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sknet import dataset, runtime
from sknet.arguments import Parser
from sknet.checkpoint import one_line
from sknet.description import Description, path_beside, sha256_of
from sknet.distributed import number
from sknet.errors import InputError, SknetError

if TYPE_CHECKING:
    from mindspore import nn

SUFFIXES = {"MINDIR": runtime.MINDIR, "ONNX": runtime.ONNX, "AIR": ".air"}
TOLERANCE = 1e-4  # between logits, times the largest logit where that is above 1: float32 has 7 digits
BATCHES = (1, 3, 32)  # that a model for any number of pictures is tried with
INTERRUPTED = 130


@dataclass(frozen=True)
class Check:
    """How an exported model compares with the net: the largest difference between two logits, over so many pictures."""

    runtime: str
    difference: float
    pictures: int
    batches: tuple[int, ...]


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command line; return the exit code of errors.py."""
    parser = Parser("python -m sknet.export --checkpoint_path=FILE [--key=value]...", __doc__)
    parser.add_argument(
        "--checkpoint_path", "--ckpt_file", required=True, metavar="", type=Path, help="checkpoint to export"
    )
    parser.add_argument(
        "--file_name", metavar="", help="file to write; default: the checkpoint's name and place, with a suffix"
    )
    parser.add_argument(
        "--file_format", default="MINDIR", metavar="", type=str.upper, choices=list(SUFFIXES), help=", ".join(SUFFIXES)
    )
    parser.add_setting("batch_size", help="pictures that the model takes at once; default: any number (AIR: 1)")
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
    for name in ("net", "class_num", "image_size"):
        parser.add_setting(name, help="of a checkpoint that does not record it")
    for name in ("width", "height"):
        parser.add_argument(f"--{name}", metavar="", type=int, help="published name of image_size; both must be equal")
    parser.add_setting("dataset_path", help="dataset with the names of classes, and pictures to check with")
    parser.add_setting("device_target", default="auto", help="auto: Ascend for AIR, CPU for the others")
    parser.add_argument("--device_id", metavar="", type=int, help="default: DEVICE_ID of the environment")
    try:
        said = parser.parse_args(arguments)
        sides = {side for side in (said.image_size, said.width, said.height) if side is not None}
        if len(sides) > 1:
            raise InputError(f"the net takes square pictures, not {' and '.join(map(str, sorted(sides)))} pixels")
        target = said.device_target
        given = runtime.Given(
            said.net,
            said.class_num,
            next(iter(sides), None),
            said.dataset_path,
            target if target != "auto" else "Ascend" if said.file_format == "AIR" else "CPU",
            number(environment, "DEVICE_ID", 0) if said.device_id is None else said.device_id,
        )
        path = said.checkpoint_path
        name = said.file_name or str(path.with_suffix(""))
        suffix = SUFFIXES[said.file_format]
        target_path = Path(name if name.endswith(suffix) else name + suffix)
        export(path, target_path, said.file_format, given, said.batch_size, force=said.force)
    except SknetError as exc:
        print(f"sknet.export: {exc}", file=sys.stderr, flush=True)
        return exc.exit_code
    return 0


def export(
    source: Path, target: Path, file_format: str, given: runtime.Given, batch_size: int | None, *, force: bool
) -> None:
    """Write the net of checkpoint *source* to *target* and its description beside it, checked, whole or not at all.

    Raises InputError when the input is wrong or *target* exists, SknetError when the result is not right.
    """
    if not force and (target.exists() or path_beside(target).exists()):
        raise InputError(f"{target if target.exists() else path_beside(target)} exists already; --force replaces it")
    if file_format == "AIR":
        need_ascend(given.device_target)
    if file_format == "ONNX" and importlib.util.find_spec("onnx") is None:
        raise InputError("ONNX needs the onnx package: pip install 'ascendrun[onnx]'")
    checkable = file_format == "MINDIR" or (
        file_format == "ONNX" and importlib.util.find_spec("onnxruntime") is not None
    )
    pixels = check_pictures(given.dataset_path)
    net, origin = runtime.load_checkpoint(source, given)
    # Any number of pictures is promised only where it was tried.
    description = replace(
        runtime.described(origin, given.dataset_path), batch_size=batch_size if batch_size or checkable else 1
    )
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            unfinished = Path(folder) / target.name
            write(net, description, file_format, unfinished)
            record = {
                "format": file_format,
                **description.record(),
                "input": "pictures (batch, 3, image_size, image_size) float32",
                "output": "logits (batch, class_num) float32",
                "checkpoint": source.name,
                "checkpoint_sha256": sha256_of(source),
                "epoch": origin.epoch or None,
                "step": origin.step or None,
                "versions": {"mindspore": importlib.metadata.version("mindspore")},
            }
            if file_format == "ONNX":
                complete_onnx(unfinished, record)
            check = None
            if checkable:
                logits = runtime.open_onnx(unfinished)[1] if file_format == "ONNX" else reloaded(unfinished)
                check = compare(runtime.logits_of(net), logits, description, pixels, file_format)
            record["check"] = check and vars(check)
            record["sha256"] = sha256_of(unfinished)
            beside = path_beside(unfinished)
            beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            for file in (unfinished, beside):
                finish(file)
            os.replace(beside, path_beside(target))
            os.replace(unfinished, target)
    except OSError as exc:
        raise InputError(f"cannot write {target}: {one_line(exc)}; choose another --file_name") from exc
    amount = f"{description.batch_size} at a time" if description.batch_size else "any number at a time"
    print(f"exported {source} to {target}: {target.stat().st_size / 1e6:.1f} MB, pictures {amount}")
    if check is None:
        reason = "nothing but Ascend runs AIR" if file_format == "AIR" else "onnxruntime is not installed"
        print(f"not checked: {reason}")
    else:
        print(
            f"checked: {check.runtime} differs from the net by at most {check.difference:.1e} in the logits of "
            f"{check.pictures} pictures"
        )


def need_ascend(device_target: str) -> None:
    """Raise InputError unless this MindSpore runs on Ascend and is to do so."""
    import mindspore as ms

    if device_target != "Ascend" or ms.get_context("device_target") != "Ascend":
        raise InputError("AIR can only be exported on an Ascend device, and none is here; MINDIR and ONNX need none")


def write(net: nn.Cell, description: Description, file_format: str, path: Path) -> None:
    """Write the model to *path*. Raises SknetError when MindSpore cannot, or the disk is full."""
    import mindspore as ms

    side, batch = description.image_size, description.batch_size
    if batch is None and file_format == "MINDIR":
        pictures = ms.Tensor(shape=[None, 3, side, side], dtype=ms.float32)
    else:
        pictures = ms.Tensor(np.zeros((batch or 1, 3, side, side), np.float32))
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    # By this name, because MindSpore refuses a path with a blank or a letter beyond ASCII.
    plain = Path(f"/proc/self/fd/{folder}/model{path.suffix}")
    try:
        if file_format == "ONNX" and hasattr(ms, "onnx"):  # MindSpore 2.5 has ms.export alone, later ones give it up
            ms.onnx.export(net, pictures, file_name=str(plain), input_names=["pictures"], output_names=["logits"])
        else:
            ms.export(net, pictures, file_name=str(plain), file_format=file_format)
        if not plain.is_file():  # it only logs what went wrong
            raise SknetError(f"MindSpore wrote no {file_format} to {path.parent.parent}: is the disk full?")
        os.replace(plain, path)
    except (RuntimeError, ValueError, TypeError, OSError) as exc:
        raise SknetError(f"MindSpore cannot write {file_format}: {one_line(exc)}") from exc
    finally:
        os.close(folder)
    path.chmod(0o600)


def complete_onnx(path: Path, record: Mapping[str, Any]) -> None:
    """Write the fields of *record*, as JSON, into the metadata, and let the model take any number if it is to.

    MindSpore traces a number of pictures, but nothing in the net depends on it: its reshapes leave the batch open, and
    only the input and the output carry the number. The check tells whether that still holds.
    """
    import onnx

    model = load_onnx(path)
    if record["batch_size"] is None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    texts = {f"{runtime.METADATA}.{name}": json.dumps(value) for name, value in record.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.save(model, path)


def load_onnx(path: Path) -> Any:
    """Return the ONNX model that MindSpore wrote. Raises SknetError when it is not whole: the disk was full."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(path)
    except DecodeError as exc:
        raise SknetError("MindSpore wrote half an ONNX model: is the disk full?") from exc


def reloaded(path: Path) -> runtime.Logits:
    """Load the MINDIR that MindSpore wrote. Raises SknetError when it is not whole."""
    try:
        return runtime.open_mindir(path, runtime.Given(device_target="CPU"))
    except InputError as exc:
        raise SknetError(f"MindSpore cannot read what it wrote: is the disk full? ({exc})") from exc


def compare(
    net: runtime.Logits,
    model: runtime.Logits,
    description: Description,
    pixels: np.ndarray,
    file_format: str,
) -> Check:
    """Run the net and the model on pixels (B, 3, SIDE, SIDE). Raises SknetError when their logits differ too much."""
    pictures = dataset.prepare(pixels, description.image_size)
    batches = (description.batch_size,) if description.batch_size else BATCHES
    size = description.batch_size or max(BATCHES)
    wanted = run_in_batches(net, pictures, size)
    if not np.isfinite(wanted).all():
        raise InputError("the net's own output is not a number: the training of this checkpoint diverged")
    differences = []
    for batch in batches:
        some = pictures if batch == size else pictures[:batch]
        differences.append(np.abs(run_in_batches(model, some, batch) - wanted[: len(some)]).max())
    difference = float(np.max(differences))  # not a number if one is none
    name = "onnxruntime" if file_format == "ONNX" else "mindspore"
    limit = TOLERANCE * max(1.0, float(np.abs(wanted).max()))
    if not difference < limit:
        raise SknetError(
            f"the exported model is wrong: run by {name}, its logits differ from the net's by {difference:.1e}, "
            f"{limit:.1e} is allowed; nothing was written"
        )
    return Check(f"{name} {importlib.metadata.version(name)}", difference, len(pictures), batches)


def check_pictures(dataset_path: str | None) -> np.ndarray:
    """Return pixels (B, 3, SIDE, SIDE) uint8: 32 of noise, the same ever after, and the first 32 of the dataset."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 3, dataset.SIDE, dataset.SIDE), np.uint8)
    if dataset_path is None:
        return noise
    real = dataset.open_pictures(dataset_path, dataset.TEST)
    return np.concatenate([noise, real.read(np.arange(min(32, len(real))))[0]])


def run_in_batches(logits: runtime.Logits, pictures: np.ndarray, size: int) -> np.ndarray:
    """Return the logits (B, K) of all pictures, *size* at a time; the last batch is filled up with its last picture."""
    found = []
    for start in range(0, len(pictures), size):
        numbers = np.minimum(np.arange(start, start + size), len(pictures) - 1)
        found.append(logits(pictures[numbers])[: len(pictures) - start])
    return np.concatenate(found)


def finish(path: Path) -> None:
    """Put a file onto the disk and give it the rights of any new file; MindSpore makes its own readable by us alone."""
    os.umask(umask := os.umask(0o077))  # it can only be read by setting it
    path.chmod(0o666 & ~umask)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:], os.environ))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
