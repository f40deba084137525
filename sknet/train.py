"""Train: `python -m sknet.train --dataset_path=DIR [--key=value]...`, alone or as one of several ranks.

MindSpore takes seconds to import, so what reads it is imported only after arguments and dataset have been checked.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sknet import cache, dataset, schedule
from sknet.checkpoint import Keeper, Origin, load, origin_of, prepare_folder, read, tensors_of
from sknet.config import Config, help_text, parse
from sknet.distributed import World, join, schedule_only, world_of
from sknet.errors import DivergedError, InputError, SknetError
from sknet.progress import VARIABLE, Progress

if TYPE_CHECKING:
    from mindspore import nn


def main(arguments: Sequence[str], environment: MutableMapping[str, str]) -> int:
    """Run the command line; return the exit code of errors.py."""
    if "--help" in arguments or "-h" in arguments:
        print(help_text("train"))
        return 0
    try:
        config, _ = parse(arguments, "train")
        if schedule_only(environment):
            return 0
        world = world_of(config, environment)
        pictures = dataset.open_pictures(config.dataset_path, dataset.TRAIN)
        dataset.check_labels(pictures, config.class_num)
        dataset.steps_per_epoch(pictures, config.batch_size, world.ranks)
        if config.pre_trained and not Path(config.pre_trained).is_file():
            raise InputError(f"no checkpoint at {config.pre_trained}; see --pre_trained")
        if config.save_checkpoint and world.rank == 0:
            prepare_folder(Path(config.save_checkpoint_path))
        train(config, pictures, world, environment)
    except SknetError as exc:
        print(f"sknet.train: {exc}", file=sys.stderr, flush=True)
        return exc.exit_code
    return 0


def train(config: Config, pictures: dataset.Pictures, world: World, environment: MutableMapping[str, str]) -> None:
    """Train the net that *config* describes on this rank's share of the pictures. Raises SknetError."""
    from sknet.device import resolved
    from sknet.model import build
    from sknet.step import TrainStep, mixed_precision, momentum_optimizer

    progress = Progress(environment.get(VARIABLE))
    progress.phase("start")
    config = resolved(config, world.device)
    cache.separate(environment, "train", [config], world)
    if config.pre_trained:
        check_start(config, Path(config.pre_trained))
    part = join(world, config.device_target, environment)

    net = build(config.net, config.class_num, config.bn_momentum, config.seed)
    tensors = tensors_of(net)
    if config.pre_trained:
        load(tensors, read(Path(config.pre_trained)), Path(config.pre_trained))
    steps = dataset.steps_per_epoch(pictures, config.batch_size, world.ranks)
    rates = schedule.rates(config, steps)
    network = mixed_precision(net, config.amp_level)
    optimizer = momentum_optimizer(network, config.momentum, config.weight_decay)
    step = TrainStep(network, optimizer, config.loss_scale, world.ranks, packed=config.device_target == "CPU")
    step.set_train()
    keeper = Keeper(Path(config.save_checkpoint_path), config.keep_checkpoint_max)

    progress.phase("compile")
    for epoch in range(config.pretrain_epoch_size + 1, config.epoch_size + 1):
        try:
            run_epoch(config, pictures, world, step, rates, epoch, steps, progress)
        except DivergedError:
            part()  # all ranks saw the same mean, so all stop here together
            raise
        due = epoch % config.save_checkpoint_epochs == 0 or epoch == config.epoch_size
        if config.save_checkpoint and due and world.rank == 0:
            progress.phase("checkpoint")
            saved = keeper.save(tensors, Origin(config.net, config.class_num, config.image_size, epoch, steps))
            progress.write(
                "checkpoint",
                path=str(saved.path),
                epoch=epoch,
                step=steps,
                bytes=saved.bytes,
                seconds=saved.seconds,
            )
    part()
    progress.phase("finish")


def check_start(config: Config, path: Path) -> None:
    """Raise InputError for a damaged or unfitting checkpoint before other ranks wait for this one.

    A checkpoint that another program wrote does not say what it holds: load() finds out.
    """
    origin = origin_of(path)
    if origin and (origin.net, origin.class_num) != (config.net, config.class_num):
        raise InputError(
            f"{path} does not fit this net: it holds {origin.net} for {origin.class_num} classes, "
            f"not {config.net} for {config.class_num}; check --net and --class_num"
        )


def run_epoch(
    config: Config,
    pictures: dataset.Pictures,
    world: World,
    step: nn.Cell,
    rates: np.ndarray,
    epoch: int,
    steps: int,
    progress: Progress,
) -> None:
    """Take every step of one epoch and report each. Raises DivergedError at the first loss that is not finite."""
    import mindspore as ms

    first = epoch == config.pretrain_epoch_size + 1
    if not first:
        progress.phase("train")
    losses, times = [], []
    began = time.monotonic()
    batches = dataset.training_batches(
        pictures, config.image_size, config.batch_size, world.rank, world.ranks, config.seed, epoch
    )
    global_batch = config.batch_size * world.ranks
    for number in range(1, steps + 1):
        start = time.monotonic()
        rate = float(rates[(epoch - 1 - config.pretrain_epoch_size) * steps + number - 1])
        images, labels = next(batches)
        loss = float(step(ms.Tensor(images), ms.Tensor(labels), ms.Tensor(rate, ms.float32)).asnumpy())
        times.append(time.monotonic() - start)
        losses.append(loss)
        print(f"epoch: {epoch} step: {number}, loss is {loss:.8g}", flush=True)
        progress.write(
            "step",
            epoch=epoch,
            epochs=config.epoch_size,
            step=number,
            steps=steps,
            loss=loss,
            lr=rate,
            step_s=times[-1],
            images_per_s=global_batch / times[-1],
        )
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} at epoch {epoch} step {number}; lower --lr_max or lengthen --warmup_epochs"
            )
        if first and number == 1:
            progress.phase("train")  # the first step was mostly compilation
    seconds = time.monotonic() - began
    print(f"epoch time: {seconds * 1000:.3f} ms, per step time: {seconds * 1000 / steps:.3f} ms", flush=True)
    progress.write(
        "epoch",
        epoch=epoch,
        epochs=config.epoch_size,
        loss=sum(losses) / steps,
        epoch_s=seconds,
        step_s=seconds / steps,
        images_per_s=global_batch * steps / seconds,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
