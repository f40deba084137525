"""A model ready to run, from any of its three forms: a checkpoint, ONNX or MINDIR.

ONNX needs onnxruntime and no MindSpore: a prediction starts in half a second instead of ten.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sknet import checkpoint
from sknet.checkpoint import one_line
from sknet.classes import class_names
from sknet.config import Config
from sknet.description import Description, path_beside, read_beside
from sknet.errors import InputError

if TYPE_CHECKING:
    from mindspore import nn

ONNX, MINDIR, CHECKPOINT = ".onnx", ".mindir", ".ckpt"
METADATA = "sknet"  # begins the names of our metadata in an ONNX model

Logits = Callable[[np.ndarray], np.ndarray]  # pictures (B, 3, S, S) float32 -> (B, classes) float32


@dataclass(frozen=True)
class Given:
    """What the command line says of a checkpoint; None: as the checkpoint itself says, else as config.py does."""

    net: str | None = None
    class_num: int | None = None
    image_size: int | None = None
    dataset_path: str | None = None  # only its names of classes are read
    device_target: str = "auto"
    device_id: int = 0


@dataclass(frozen=True)
class Model:
    """What a model is, and what gives its logits: float32 and in evaluation mode, whatever it was trained in."""

    description: Description
    logits: Logits


def open_model(path: Path, given: Given) -> Model:
    """Open a model by the suffix of its file. Raises InputError when it cannot be used."""
    if not path.is_file():
        raise InputError(f"{path}: {'a folder, no model' if path.is_dir() else 'no such model'}")
    if path.suffix == CHECKPOINT:
        net, origin = load_checkpoint(path, given)
        return Model(described(origin, given.dataset_path), logits_of(net))
    if path.suffix not in (ONNX, MINDIR):
        raise InputError(f"{path}: a model is a file named *{CHECKPOINT}, *{ONNX} or *{MINDIR}")
    description = read_beside(path)
    if path.suffix == ONNX:
        embedded, logits = open_onnx(path)
        return Model(description or embedded, logits)
    if description is None:
        raise InputError(
            f"{path_beside(path)} is missing: it says the classes and the pictures of {path.name}; "
            "keep the two together, or export again"
        )
    return Model(description, open_mindir(path, given))


def load_checkpoint(path: Path, given: Given) -> tuple[nn.Cell, checkpoint.Origin]:
    """Return the net of a checkpoint, in evaluation mode and float32, and what the checkpoint is.

    Raises InputError when the file cannot be read or does not fit the net.
    """
    need_mindspore(path)
    origin = checkpoint.origin_of(path)
    if origin is None:  # another program wrote it: what is not given is the published recipe's
        recipe = Config()
        origin = checkpoint.Origin(recipe.net, recipe.class_num, recipe.image_size, 0, 0)
    wanted = {name: getattr(given, name) for name in ("net", "class_num", "image_size")}
    origin = replace(origin, **{name: value for name, value in wanted.items() if value is not None})

    from sknet.device import choose_device
    from sknet.model import build

    choose_device(given.device_target, given.device_id)
    net = build(origin.net, origin.class_num)
    checkpoint.load(checkpoint.tensors_of(net), checkpoint.read(path), path)
    net.set_train(False)
    return net, origin


def need_mindspore(path: Path) -> None:
    """Raise InputError where MindSpore is not installed."""
    if importlib.util.find_spec("mindspore") is None:
        raise InputError(f"{path} needs MindSpore: pip install 'ascendrun[cpu]'; an ONNX model does without")


def described(origin: checkpoint.Origin, dataset_path: str | None) -> Description:
    """Return the description of a net that takes any number of pictures."""
    return Description(origin.net, origin.image_size, class_names(origin.class_num, dataset_path))


def logits_of(cell: nn.Cell) -> Logits:
    """Return what runs a MindSpore cell on NumPy pictures. It raises InputError when the cell does not take them."""
    import mindspore as ms

    def run(pictures: np.ndarray) -> np.ndarray:
        try:
            logits: np.ndarray = cell(ms.Tensor(pictures)).asnumpy()
        except (RuntimeError, ValueError, TypeError, AttributeError) as exc:  # the last of a model with two outputs
            raise InputError(f"the model cannot run on pictures {pictures.shape}: {one_line(exc)}") from exc
        return logits

    return run


def open_mindir(path: Path, given: Given) -> Logits:
    """Load an exported MINDIR. Raises InputError when MindSpore cannot."""
    need_mindspore(path)
    import mindspore as ms
    from mindspore import nn

    from sknet.device import choose_device

    choose_device(given.device_target, given.device_id)
    try:
        return logits_of(nn.GraphCell(ms.load(str(path))))
    except (RuntimeError, ValueError, TypeError, OSError) as exc:
        raise InputError(f"{path} is cut short, damaged or no MINDIR ({one_line(exc)})") from exc


def open_onnx(path: Path) -> tuple[Description, Logits]:
    """Load an exported ONNX model and read what it says of itself.

    Raises InputError when onnxruntime is missing, cannot read the file, or sknet.export did not write it.
    """
    try:
        import onnxruntime
    except ImportError as exc:
        raise InputError(f"{path} needs onnxruntime: pip install 'ascendrun[onnx]'") from exc

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors reach us as exceptions
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's errors have no other base
        raise InputError(f"{path} is cut short, damaged or no ONNX model ({one_line(exc)})") from exc
    texts = session.get_modelmeta().custom_metadata_map
    try:
        record = {
            name.removeprefix(f"{METADATA}."): json.loads(text)
            for name, text in texts.items()
            if name.startswith(f"{METADATA}.")
        }
    except (ValueError, RecursionError) as exc:
        raise InputError(f"{path}: its metadata are damaged ({exc})") from exc
    if not record:
        raise InputError(f"{path} does not say its classes and pictures: sknet.export did not write it")

    def run(pictures: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(session.run(None, {session.get_inputs()[0].name: pictures})[0], np.float32)
        except Exception as exc:  # as above
            raise InputError(f"{path} cannot run on pictures {pictures.shape}: {one_line(exc)}") from exc

    return Description.from_record(record, path), run
