"""Evaluate: `python -m sknet.eval --checkpoint_path=FILE_OR_FOLDER --dataset_path=DIR [--key=value]...`.

Takes every key of training too, so that one argument list serves both. net, class_num and image_size are those that
the checkpoint records, unless they are given. A folder is evaluated in the order of (epoch, step) with one compilation.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sknet import cache, checkpoint, dataset
from sknet.config import Config, help_text, parse
from sknet.distributed import World, number
from sknet.errors import InputError, SknetError
from sknet.progress import VARIABLE, Progress

if TYPE_CHECKING:
    from mindspore import nn

RECORDED = ("net", "class_num", "image_size")  # what a checkpoint says of itself and evaluation must follow


@dataclass(frozen=True)
class Result:
    """What a net scored: shares of the pictures whose class was its first guess, or among its first five."""

    top_1_accuracy: float
    top_5_accuracy: float
    loss: float  # mean over the pictures
    pictures: int


def main(arguments: Sequence[str], environment: MutableMapping[str, str]) -> int:
    """Run the command line; return the exit code of errors.py."""
    if "--help" in arguments or "-h" in arguments:
        print(help_text("eval"))
        return 0
    try:
        config, given = parse(arguments, "eval")
        if config.checkpoint_path is None:
            raise InputError("--checkpoint_path is required: a checkpoint file, or a folder of them")
        paths = checkpoint.find(Path(config.checkpoint_path))
        pictures = dataset.open_pictures(config.dataset_path, dataset.TEST)
        evaluate_all(config, given, paths, pictures, environment)
    except SknetError as exc:
        print(f"sknet.eval: {exc}", file=sys.stderr, flush=True)
        return exc.exit_code
    return 0


def evaluate_all(
    config: Config,
    given: frozenset[str],
    paths: Sequence[Path],
    pictures: dataset.Pictures,
    environment: MutableMapping[str, str],
) -> None:
    """Evaluate the checkpoints one after the other and report each. Raises SknetError."""
    from sknet.device import resolved
    from sknet.model import build
    from sknet.step import mixed_precision

    progress = Progress(environment.get(VARIABLE))
    progress.phase("start")
    config = resolved(config, number(environment, "DEVICE_ID", 0))
    origins = [checkpoint.origin_of(path) for path in paths]
    wanted = [following(config, given, origin) for origin in origins]  # settings, one for each checkpoint
    dataset.check_labels(pictures, min(settings.class_num for settings in wanted))
    cache.separate(environment, "eval", [settings for settings, _ in groupby(wanted)], World())
    built = None
    for path, origin, settings in zip(paths, origins, wanted):
        if settings != built:
            progress.phase("compile")
            net = build(settings.net, settings.class_num, group_convolution=settings.group_convolution)
            tensors = checkpoint.tensors_of(net)
            network = mixed_precision(net, settings.amp_level)
            network.set_train(False)
            built = settings
        checkpoint.load(tensors, checkpoint.read(path), path)
        progress.phase("evaluate")
        result = evaluate(network, pictures, settings.image_size, settings.batch_size)
        print(
            f"result: {{'top_5_accuracy': {result.top_5_accuracy}, 'top_1_accuracy': {result.top_1_accuracy}}} "
            f"ckpt={path.absolute()}",
            flush=True,
        )
        progress.write(
            "evaluation",
            checkpoint=str(path.absolute()),
            epoch=origin and origin.epoch,
            step=origin and origin.step,
            top_1_accuracy=result.top_1_accuracy,
            top_5_accuracy=result.top_5_accuracy,
            loss=result.loss,
            pictures=result.pictures,
        )
    progress.phase("finish")


def following(config: Config, given: frozenset[str], origin: checkpoint.Origin | None) -> Config:
    """Return the settings for a checkpoint: those that it records, unless they were given."""
    if origin is None:
        return config
    return replace(config, **{name: getattr(origin, name) for name in RECORDED if name not in given})


def evaluate(network: nn.Cell, pictures: dataset.Pictures, image_size: int, batch_size: int) -> Result:
    """Return how the net, set to evaluation mode, does on all pictures; each counts exactly once."""
    import mindspore as ms

    first = first_five = count = 0
    loss = 0.0
    for images, labels, counting in dataset.test_batches(pictures, image_size, batch_size):
        logits = network(ms.Tensor(images)).astype(ms.float32).asnumpy()[:counting]  # (counting, class_num)
        ranks, losses = score(logits, labels[:counting])
        first += int((ranks == 0).sum())
        first_five += int((ranks < 5).sum())
        loss += float(losses.sum())
        count += counting
    return Result(first / count, first_five / count, loss / count, count)


def score(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many classes each label comes after, (B,) int, and its cross-entropy, (B,) float64.

    Logits are (B, K). A class whose logit equals the label's, or is no number, counts as before it: a net that says
    the same of everything, or nothing at all, must not look right.
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1).astype(np.float64)  # (B, 1)
    ranks = (~(logits < own)).sum(axis=1) - 1
    highest = logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits - highest).sum(axis=1)) + (highest - own)[:, 0]
    return ranks, losses


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
