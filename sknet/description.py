"""What a model file says of itself: its classes, the pictures that it takes, where its weights come from.

An exported model takes what the net takes, pictures (B, 3, image_size, image_size) float32, and gives logits. How a
picture becomes that is no part of its graph: it is written into the JSON file beside the model (MODEL.json) and, for
ONNX, into the model's metadata too, one property a field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sknet import checkpoint_file
from sknet.config import check_range, keys_of
from sknet.dataset import DEVIATION, MEAN, SIDE
from sknet.errors import InputError

# In the order of their labels. Source: https://www.cs.toronto.edu/~kriz/cifar.html.
MOST_BYTES = 1 << 20  # a description is a page of text
PREPROCESSING = {
    "preprocessing": "RGB; the whole picture resized to source_size squared; divided by divisor; minus mean, over "
    "deviation, for each colour; enlarged bilinearly to image_size squared; colours first, float32",
    "source_size": SIDE,
    "divisor": 255,
    "mean": [round(float(value), 4) for value in MEAN],
    "deviation": [round(float(value), 4) for value in DEVIATION],
}


@dataclass(frozen=True)
class Description:
    """What is needed to use a model. Raises InputError when it cannot be so."""

    net: str
    image_size: int  # pixels
    classes: tuple[str, ...]  # their names, by label
    batch_size: int | None = None  # pictures that it takes at once; None: any number

    def __post_init__(self) -> None:
        known = keys_of("train")
        for name, value in (
            ("net", self.net),
            ("image_size", self.image_size),
            ("class_num", len(self.classes)),
            ("batch_size", self.batch_size),
        ):
            check_range(known[name], value)

    def record(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {**asdict(self), "class_num": len(self.classes), **PREPROCESSING}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], source: Path) -> Description:
        """Read what record() gave; fields that we do not know are passed over. Raises InputError naming *source*."""
        try:
            other = [name for name, value in PREPROCESSING.items() if record[name] != value]
            description = cls(
                str(record["net"]),
                int(record["image_size"]),
                tuple(str(name) for name in record["classes"]),
                None if record["batch_size"] is None else int(record["batch_size"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as exc:
            raise InputError(f"{source} does not describe a model as sknet.export does ({exc!r})") from exc
        except InputError as exc:
            raise InputError(f"{source}: {exc}") from exc
        if other:
            raise InputError(f"{source}: its pictures are prepared otherwise than here: {', '.join(other)}")
        return description


def path_beside(model: Path) -> Path:
    """Return where the description of an exported model lies."""
    return model.with_name(f"{model.name}.json")


def read_beside(model: Path) -> Description | None:
    """Return what the file beside *model* says; None when there is none.

    Raises InputError when it is damaged, or says the SHA-256 of another file: then either of the two is damaged.
    """
    path = path_beside(model)
    try:
        with open(path, "rb") as file:
            record = json.loads(file.read(MOST_BYTES))
        if not isinstance(record, dict):
            raise ValueError("no mapping")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as exc:
        raise InputError(f"{path} cannot be read ({exc}); export the model again") from exc
    if record.get("sha256") != sha256_of(model):
        raise InputError(
            f"{model} is not the file that {path.name} was written for: it is damaged, or another one; export it again"
        )
    return Description.from_record(record, path)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal. Raises InputError when it cannot be read."""
    try:
        return checkpoint_file.sha256_of(path)
    except OSError as exc:
        raise InputError(f"{path}: {exc.strerror}") from exc
