"""Evaluate: `python -m sknet.eval --checkpoint_path=FILE_OR_FOLDER --dataset_path=DIR [--key=value]...`.

Takes every key of training too, so that one argument list serves both. net, class_num and image_size are those that
the checkpoint records, unless they are given. A folder is evaluated in the order of (epoch, step) with one compilation.
A checkpoint of it that cannot be evaluated is named with the reason, the others are evaluated, and the exit code is 2;
one that a training run removes meanwhile, because it keeps its last few, is passed over.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sknet import cache, checkpoint, dataset
from sknet.checkpoint_file import sha256_of
from sknet.classes import class_names
from sknet.config import Config, help_text, parse
from sknet.distributed import World, number
from sknet.errors import InputError, SknetError
from sknet.metrics import Scores
from sknet.progress import VARIABLE, Progress
from sknet.report import Subject, keep

if TYPE_CHECKING:
    from mindspore import Parameter, nn

RECORDED = ("net", "class_num", "image_size")  # what a checkpoint says of itself and evaluation must follow
WORK_FOLDER = "ASCENDRUN_WORK_FOLDER"  # where results go that cannot lie beside their checkpoint; else where we stand
HELP = """
Beside STEM.ckpt the result is kept as STEM.eval.json and STEM.eval.png, the confusion matrix. Of a folder, checkpoints
that cannot be evaluated are named and the others evaluated, the exit code is 2 then; those that vanish are passed over.
"""


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that is to be evaluated, what it says of itself, and the settings that follow from that."""

    path: Path  # absolute
    origin: checkpoint.Origin | None
    settings: Config


def main(arguments: Sequence[str], environment: MutableMapping[str, str]) -> int:
    """Run the command line; return the exit code of errors.py."""
    if "--help" in arguments or "-h" in arguments:
        print(help_text("eval") + "\n" + HELP, end="")
        return 0
    try:
        config, given = parse(arguments, "eval")
        if config.checkpoint_path is None:
            raise InputError("--checkpoint_path is required: a checkpoint file, or a folder of them")
        paths = [path.absolute() for path in checkpoint.find(Path(config.checkpoint_path))]
        pictures = dataset.open_pictures(config.dataset_path, dataset.TEST)
        evaluate_all(config, given, paths, pictures, environment)
    except SknetError as exc:
        say(str(exc))
        return exc.exit_code
    return 0


def say(text: str) -> None:
    """Tell the user something that is no result."""
    print(f"sknet.eval: {text}", file=sys.stderr, flush=True)


def evaluate_all(
    config: Config,
    given: frozenset[str],
    paths: Sequence[Path],
    pictures: dataset.Pictures,
    environment: MutableMapping[str, str],
) -> None:
    """Evaluate the checkpoints one after the other; report and keep each result. Raises SknetError."""
    from sknet.device import resolved

    progress = Progress(environment.get(VARIABLE))
    progress.phase("start")
    config = resolved(config, number(environment, "DEVICE_ID", 0))
    work_folder = Path(environment.get(WORK_FOLDER) or ".").absolute()
    problems = Problems(len(paths), progress)

    candidates = []
    for path in paths:
        try:
            candidates.append(candidate(path, config, given, pictures))
        except InputError as exc:
            problems.add(path, exc)
    graphs = list(dict.fromkeys(one.settings for one in candidates))
    if len(graphs) > 1:
        # MindSpore finds a graph in its cache by its place in the order of compilation, and that order would be
        # another one as soon as a checkpoint vanishes.
        environment["MS_COMPILER_CACHE_ENABLE"] = "0"
    cache.separate(environment, "eval", graphs, World())
    built = None
    done = 0
    for one in candidates:
        settings = one.settings
        if settings != built:
            progress.phase("compile")
            network, tensors = build_network(settings)
            built = settings
        try:
            sha256 = load(tensors, one.path)
        except InputError as exc:
            problems.add(one.path, exc)
            continue
        progress.phase("evaluate")
        scores = evaluate(network, pictures, settings.class_num, settings.image_size, settings.batch_size)
        print(
            f"result: {{'top_5_accuracy': {scores.top_5_accuracy}, 'top_1_accuracy': {scores.top_1_accuracy}}} "
            f"ckpt={one.path}",
            flush=True,
        )
        folder = Path(str(config.dataset_path)).absolute()
        names = class_names(settings.class_num, config.dataset_path)
        subject = Subject(one.path, sha256, folder.name, one.origin, settings.net, settings.image_size, names)
        report(subject, scores, work_folder, progress)
        done += 1
    problems.close(done)
    progress.phase("finish")


def candidate(path: Path, config: Config, given: frozenset[str], pictures: dataset.Pictures) -> Candidate:
    """Return how *path* is to be evaluated. Raises InputError when it is damaged or does not fit the labels."""
    origin = checkpoint.origin_of(path)
    settings = following(config, given, origin)
    dataset.check_labels(pictures, settings.class_num)
    return Candidate(path, origin, settings)


def following(config: Config, given: frozenset[str], origin: checkpoint.Origin | None) -> Config:
    """Return the settings for a checkpoint: those that it records, unless they were given."""
    if origin is None:
        return config
    return replace(config, **{name: getattr(origin, name) for name in RECORDED if name not in given})


class Problems:
    """The checkpoints of *count* that could not be evaluated. A single one is its own error, told by whoever ends."""

    def __init__(self, count: int, progress: Progress) -> None:
        self._count = count
        self._progress = progress
        self._refused = 0

    def add(self, path: Path, exc: InputError) -> None:
        """Tell of one checkpoint and go on. Raises *exc* when there is no other."""
        if self._count > 1 and not path.is_file():
            say(f"passed over {path}: it was removed meanwhile")
            return
        self._refused += 1
        self._progress.write("evaluation", checkpoint=str(path), error=str(exc))
        if self._count == 1:
            raise exc
        say(f"left out: {exc}")

    def close(self, done: int) -> None:
        """Raise InputError when a checkpoint was refused, or all have vanished."""
        if self._refused:
            raise InputError(f"{self._refused} of {self._count} checkpoints could not be evaluated, as told above")
        if not done:
            raise InputError("every checkpoint was removed meanwhile; evaluate again")


def build_network(settings: Config) -> tuple[nn.Cell, dict[str, Parameter]]:
    """Return a net in evaluation mode, and its tensors to load weights into."""
    from sknet.model import build
    from sknet.step import mixed_precision

    net = build(settings.net, settings.class_num, group_convolution=settings.group_convolution)
    tensors = checkpoint.tensors_of(net)
    network = mixed_precision(net, settings.amp_level)
    network.set_train(False)
    return network, tensors


def load(tensors: dict[str, Parameter], path: Path) -> str:
    """Load a checkpoint; return the SHA-256 of that very file. Raises InputError when it cannot be or does not fit.

    A run that trains under the same names may replace the file meanwhile: then it is read again.
    """
    while True:
        try:
            before = path.stat()
            weights = checkpoint.read(path)
            sha256 = sha256_of(path)
            after = path.stat()
        except OSError as exc:
            raise InputError(f"cannot read {path}: {exc.strerror}") from exc
        if (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns):
            checkpoint.load(tensors, weights, path)
            return sha256


def evaluate(network: nn.Cell, pictures: dataset.Pictures, class_num: int, image_size: int, batch_size: int) -> Scores:
    """Return how the net, set to evaluation mode, does on all pictures; each counts exactly once."""
    import mindspore as ms

    scores = Scores.none(class_num)
    for images, labels, counting in dataset.test_batches(pictures, image_size, batch_size):
        logits = network(ms.Tensor(images)).astype(ms.float32).asnumpy()[:counting]  # (counting, class_num)
        scores = scores.and_of(logits, labels[:counting])
    return scores


def report(subject: Subject, scores: Scores, work_folder: Path, progress: Progress) -> None:
    """Keep a result and tell of it. Raises SknetError, after telling, when it can be kept nowhere."""
    figures = {
        "checkpoint": str(subject.checkpoint),
        "sha256": subject.sha256,
        "epoch": subject.origin and subject.origin.epoch,
        "step": subject.origin and subject.origin.step,
        "top_1_accuracy": scores.top_1_accuracy,
        "top_5_accuracy": scores.top_5_accuracy,
        "loss": scores.loss,
        "pictures": scores.pictures,
        "per_class_accuracy": scores.accuracy_of_class,
    }
    try:
        kept = keep(subject, scores, work_folder, say)
    except SknetError:
        progress.write("evaluation", **figures, json=None, png=None)
        raise
    progress.write("evaluation", **figures, json=str(kept.json), png=kept.png and str(kept.png))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
