"""Predict: `python -m sknet.predict --model=FILE [--top=5] [--json] PICTURE_OR_FOLDER...`.

FILE is a checkpoint (.ckpt) or what sknet.export made of one (.onnx, .mindir). A picture gives one line, its classes
by falling probability; with --json that line is an object with `picture` and either `classes` or `error`. What cannot
be read costs a line of its own, and exit code 2 once the others are done.

A picture of any size is first resized, as a whole, to 32x32 pixels and then enlarged to the net's image size: so were
the pictures that the net was trained on. It knows nothing of finer detail, and would take a sharp one for something
else. Objects should fill the picture, as they do in CIFAR-10.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sknet import pictures
from sknet.arguments import Parser
from sknet.dataset import prepare
from sknet.distributed import number
from sknet.errors import InputError, SknetError
from sknet.runtime import Given, Model, open_model

INTERRUPTED = 130


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command line; return the exit code of errors.py, 130 after Ctrl-C."""
    parser = Parser("python -m sknet.predict --model=FILE [--key=value]... PICTURE_OR_FOLDER...", __doc__)
    parser.add_argument("--model", required=True, metavar="", type=Path, help="a .ckpt, .onnx or .mindir file")
    parser.add_argument("--top", default=5, metavar="", type=int, help="classes to name, the likeliest first")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line")
    for name in ("net", "class_num", "image_size"):
        parser.add_setting(name, help="of a checkpoint that does not record it")
    parser.add_setting("batch_size", default=32, help="pictures that the net sees at once")
    parser.add_setting("dataset_path", help="dataset whose names of classes to use for a checkpoint")
    parser.add_setting("device_target", default="auto")
    parser.add_argument("pictures", nargs="+", type=Path, help="picture files, and folders of them")
    try:
        said = parser.parse_args(arguments)
        if said.top < 1:
            raise InputError(f"--top {said.top}: name at least one class")
        given = Given(
            said.net,
            said.class_num,
            said.image_size,
            said.dataset_path,
            said.device_target,
            number(environment, "DEVICE_ID", 0),
        )
        model = open_model(said.model, given)
        unreadable = 0
        for record in predict(model, said.pictures, said.batch_size, said.top):
            unreadable += "error" in record
            tell(record, as_json=said.json)
    except SknetError as exc:
        print(f"sknet.predict: {exc}", file=sys.stderr, flush=True)
        return exc.exit_code
    return InputError.exit_code if unreadable else 0


def predict(model: Model, paths: Iterable[Path], batch_size: int, top: int) -> Iterator[dict[str, Any]]:
    """Yield a record for each picture: {picture, classes: [{class, label, probability}...]} or {picture, error}.

    The *top* likeliest classes come first. No more than one batch of pictures is held. Raises InputError when the model
    cannot run.
    """
    size = model.description.batch_size or batch_size
    waiting: list[tuple[Path, np.ndarray]] = []
    compiled = model.description.batch_size  # the batch that the model has already seen
    for path, pixels in pictures.read_all(paths):
        if isinstance(pixels, InputError):
            yield {"picture": str(path), "error": str(pixels)}
            continue
        waiting.append((path, pixels))
        if len(waiting) == size:
            yield from classify(model, waiting, size, top)
            waiting, compiled = [], size
    if waiting:
        yield from classify(model, waiting, compiled or len(waiting), top)


def classify(model: Model, batch: Sequence[tuple[Path, np.ndarray]], size: int, top: int) -> Iterator[dict[str, Any]]:
    """Yield the records of a batch, which is filled up to *size* so that one compiled graph serves all batches."""
    description = model.description
    numbers = np.minimum(np.arange(size), len(batch) - 1)
    pixels = np.stack([pixels for _, pixels in batch])[numbers]  # (size, 3, SIDE, SIDE)
    logits = model.logits(prepare(pixels, description.image_size))  # (size, classes)
    if logits.shape != (size, len(description.classes)):
        found = "x".join(map(str, logits.shape[1:])) or "no"
        raise InputError(f"the model gives {found} classes, its description {len(description.classes)}")
    logits = logits[: len(batch)]
    if not np.isfinite(logits).all():
        raise InputError("the model's output is not a number: its weights are damaged, or their training diverged")
    for (path, _), chances in zip(batch, softmax(logits)):
        yield {
            "picture": str(path),
            "classes": [
                {"class": description.classes[label], "label": int(label), "probability": float(chances[label])}
                for label in np.argsort(-chances, kind="stable")[:top]
            ],
        }


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities (B, K) float64 of logits (B, K)."""
    powers = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64))
    shares: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return shares


def tell(record: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one record: results to standard output; errors there too where a program reads them."""
    if as_json:
        print(json.dumps(record), flush=True)
    elif "error" in record:
        print(f"sknet.predict: {record['error']}", file=sys.stderr, flush=True)
    else:
        chances = "  ".join(f"{one['class']} {one['probability']:.2%}" for one in record["classes"])
        name = record["picture"].encode(errors="backslashreplace").decode()  # which need not be UTF-8
        print(f"{name}: {chances}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:], os.environ))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
