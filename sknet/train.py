"""Train: `python -m sknet.train --dataset_path=DIR [--key=value]...`, alone or as one of several ranks.

MindSpore takes seconds to import, so what reads it is imported only after arguments and dataset have been checked.
"""

from __future__ import annotations

import math
import os
import sys
import time
import uuid
from collections.abc import MutableMapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sknet import cache, dataset, resume, schedule
from sknet.checkpoint import (
    Course,
    Keeper,
    Origin,
    Saved,
    check_fit,
    describe,
    find,
    load,
    prepare_folder,
    read,
    shapes_of,
    tensors_of,
)
from sknet.config import Config, help_text, parse
from sknet.distributed import World, join, schedule_only, total, world_of
from sknet.errors import AskedToEndError, DivergedError, InputError, SknetError
from sknet.feed import batches_left, feeding
from sknet.leaving import Notice
from sknet.progress import VARIABLE, Progress

if TYPE_CHECKING:
    from mindspore import Parameter

    from sknet.step import TrainStep


def main(arguments: Sequence[str], environment: MutableMapping[str, str]) -> int:
    """Run the command line; return the exit code of errors.py."""
    if "--help" in arguments or "-h" in arguments:
        print(help_text("train"))
        return 0
    try:
        config, _ = parse(arguments, "train")
        config = resume.wanted(config, environment)
        if schedule_only(environment):
            return 0
        world = world_of(config, environment)
        pictures = dataset.open_pictures(config.dataset_path, dataset.TRAIN)
        dataset.check_labels(pictures, config.class_num)
        dataset.steps_per_epoch(pictures, config.batch_size, world.ranks)
        if config.pre_trained and not Path(config.pre_trained).is_file():
            raise InputError(f"no checkpoint at {config.pre_trained}; see --pre_trained")
        if config.resume:
            find(Path(config.resume))
        if config.save_checkpoint and world.rank == 0:
            prepare_folder(Path(config.save_checkpoint_path))
        train(config, pictures, world, environment)
    except SknetError as exc:
        print(f"sknet.train: {exc}", file=sys.stderr, flush=True)
        return exc.exit_code
    except KeyboardInterrupt:
        print("sknet.train: interrupted", file=sys.stderr, flush=True)
        return 130
    return 0


def train(config: Config, pictures: dataset.Pictures, world: World, environment: MutableMapping[str, str]) -> None:
    """Train the net that *config* describes on this rank's share of the pictures. Raises SknetError."""
    from sknet.device import resolved
    from sknet.model import build
    from sknet.step import TrainStep, mixed_precision, momentum_optimizer

    progress = Progress(environment.get(VARIABLE))
    progress.phase("start")
    config = resolved(config, world.device)
    if config.dataset_sink_mode == "true" and config.device_target != "Ascend":
        raise InputError(f"dataset_sink_mode true needs Ascend; on {config.device_target} use auto or false")
    start = resume.newest(Path(config.resume)) if config.resume else None
    if start:
        config = resume.shared_out(start, config, world.ranks)
    cache.separate(environment, "train", [config], world)
    if config.batch_size % config.accumulate:
        raise InputError(f"accumulate {config.accumulate} must divide the {config.batch_size} pictures of a batch")
    steps = dataset.steps_per_epoch(pictures, config.batch_size, world.ranks)
    if start:
        resume.check(start, config, steps, world.ranks, len(pictures))
        if start.done >= config.epoch_size * steps:
            print(f"{start.path}: this run is complete, all {config.epoch_size} epochs; nothing to do", flush=True)
            progress.phase("finish")
            return
        print(f"resuming from {start.path}: epoch {start.origin.epoch} step {start.origin.step} is done", flush=True)
    if config.pre_trained:
        check_start(config, Path(config.pre_trained))
    part = join(world, config.device_target, environment)
    if start and world.distributed:
        resume.agree(start, world, total)

    bn_momentum = config.bn_momentum ** (1 / config.accumulate)  # its statistics move with each part of a step
    net = build(config.net, config.class_num, bn_momentum, config.seed, config.group_convolution)
    tensors = tensors_of(net)
    if config.pre_trained:
        load(tensors, read(Path(config.pre_trained)), Path(config.pre_trained))
    network = mixed_precision(net, config.amp_level)
    optimizer = momentum_optimizer(network, config.momentum, config.weight_decay)
    in_half = config.amp_level != "O0"
    step = TrainStep(
        network,
        optimizer,
        config.loss_scale if in_half else 1.0,
        world.ranks,
        packed=config.device_target == "CPU",
        label_smooth_factor=config.label_smooth_factor,
        scale_window=config.loss_scale_window if in_half and config.loss_scale_mode == "dynamic" else None,
        parts=config.accumulate,
    )
    step.set_train()
    if start:
        resume.restore(start, tensors, step.state(tensors))
    keeper = None
    if config.save_checkpoint and world.rank == 0:
        keeper = Keeper(Path(config.save_checkpoint_path), config.keep_checkpoint_max)
    try:
        Training(config, pictures, world, steps, step, tensors, keeper, progress, start).run()
    except (DivergedError, AskedToEndError):
        part()  # all ranks saw the same sum, so all stop here together
        raise
    part()
    progress.phase("finish")


def check_start(config: Config, path: Path) -> None:
    """Raise InputError for a damaged or unfitting checkpoint before other ranks wait for this one.

    A checkpoint that another program wrote does not say what it holds: load() finds out.
    """
    from sknet.model import build

    contents = describe(path)
    origin = contents.origin
    if origin and (origin.net, origin.class_num) != (config.net, config.class_num):
        # The run ends here, so the Tensors that are made for the message may be made before the ranks have met.
        check_fit(shapes_of(tensors_of(build(config.net, config.class_num))), contents.shapes, path)


class Training:
    """The steps of one rank: taken one after the other, reported each, saved when due."""

    def __init__(
        self,
        config: Config,
        pictures: dataset.Pictures,
        world: World,
        steps: int,
        step: TrainStep,
        tensors: dict[str, Parameter],
        keeper: Keeper | None,
        progress: Progress,
        start: resume.Start | None,
    ) -> None:
        self.config, self.world, self.steps, self.step = config, world, steps, step
        self.tensors, self.keeper, self.progress = tensors, keeper, progress
        self.rates = schedule.rates(config, steps)
        self.first = start.done if start else config.pretrain_epoch_size * steps  # steps that are done already
        self.last = config.epoch_size * steps
        self.batches = batches_left(config, pictures, world, steps, self.rates, self.first)
        self.course = (
            start.course
            if start
            else Course(uuid.uuid4().hex, steps, world.ranks, len(pictures), 0.0, resume.settings_of(config))
        )
        self.loss_sum = start.course.loss_sum if start and start.origin.step < steps else 0.0  # of this epoch
        self.scale, self.skipped = self.scaling()
        self.notice = Notice(self.finish_writing)
        if keeper and start:
            keeper.adopt(start.course.run, start.origin)

    def run(self) -> None:
        """Take every step that is left. Raises DivergedError, AskedToEndError, and SknetError for a checkpoint that
        cannot be written.
        """
        self.progress.phase("compile")
        sink = self.config.dataset_sink_mode == "true"
        try:
            with feeding(self.step, self.batches, self.last - self.first, sink) as take:
                epoch_began = time.monotonic()
                for done in range(self.first + 1, self.last + 1):
                    epoch, number = (done - 1) // self.steps + 1, (done - 1) % self.steps + 1
                    if number == 1:
                        epoch_began, self.loss_sum = time.monotonic(), 0.0
                    began = time.monotonic()
                    with self.notice.step() if self.config.save_checkpoint else nullcontext():
                        tensor, wait_s = take()
                        loss = float(tensor.asnumpy())
                    self.loss_sum += loss
                    self.report_step(epoch, number, loss, time.monotonic() - began, wait_s)
                    self.check(epoch, number, loss)
                    if done == self.first + 1:
                        self.progress.phase("train")  # the first step was mostly compilation
                    if number == self.steps:
                        self.report_epoch(epoch, time.monotonic() - epoch_began, min(self.steps, done - self.first))
                    ending = self.end_asked() and done < self.last
                    if self.keeper:
                        self.save(self.keeper, done, epoch, number, ending)
                    if ending:
                        break
        finally:
            self.finish_writing()
        if ending:
            raise AskedToEndError(
                f"asked to end: this is a checkpoint of epoch {epoch} step {number}, and --resume goes on from it"
            )

    def finish_writing(self) -> None:
        """Wait for the checkpoint that is being written, and tell of it. Raises SknetError when it could not be."""
        if self.keeper:
            self.report_saved(self.keeper.close())

    def end_asked(self) -> bool:
        """Pass on that this rank was asked to end, if it was; return whether all ranks end after this step."""
        if self.notice.asked:
            self.step.ask_to_end()
        if agreed := self.step.end_agreed:
            self.notice.heed()
        return agreed

    def report_step(self, epoch: int, number: int, loss: float, step_s: float, wait_s: float | None) -> None:
        """Tell of one step, and of the loss scale where it moves."""
        print(f"epoch: {epoch} step: {number}, loss is {loss:.8g}", flush=True)
        further = {} if wait_s is None else {"wait_s": wait_s}
        if self.step.scaling:
            before, skipped_before = self.scale, self.skipped
            self.scale, self.skipped = self.scaling()
            further |= {"loss_scale": before, "skipped": self.skipped - skipped_before}
            if self.skipped > skipped_before:
                print(f"the update of epoch {epoch} step {number} is skipped: loss scale {before:g} made its gradients "
                      f"overflow, {self.scale:g} is next", flush=True)  # fmt: skip
                if before == self.scale:  # it cannot fall any further: no update would ever be made again
                    raise DivergedError(
                        f"gradients overflow at epoch {epoch} step {number} even with a loss scale of {before:g}; "
                        f"lower --lr_max, or choose --amp_level=O0"
                    )
        self.progress.write(
            "step",
            epoch=epoch,
            epochs=self.config.epoch_size,
            step=number,
            steps=self.steps,
            loss=loss,
            lr=float(self.rates[(epoch - 1) * self.steps + number - 1]),
            step_s=step_s,
            images_per_s=self.config.batch_size * self.world.ranks / step_s,
            **further,
        )

    def check(self, epoch: int, number: int, loss: float) -> None:
        """Raise DivergedError when the loss has exploded. Every rank sees the same mean."""
        remedy = "lower --lr_max or lengthen --warmup_epochs"
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss} at epoch {epoch} step {number}; {remedy}")
        if loss > self.config.diverged_above:
            raise DivergedError(
                f"the loss is {loss:.6g} at epoch {epoch} step {number}, above --diverged_above="
                f"{self.config.diverged_above:g}; {remedy}"
            )

    def scaling(self) -> tuple[float, int]:
        """Return the loss scale and how many updates it has cost; nothing of note where it does not move."""
        if not self.step.scaling:
            return 1.0, 0
        return float(self.step.scaling.value.asnumpy()), int(self.step.scaling.skipped.asnumpy())

    def report_epoch(self, epoch: int, epoch_s: float, taken: int) -> None:
        """Tell of an epoch of which *taken* steps were taken here; the mean loss is that of all its steps."""
        step_s = epoch_s / taken
        print(f"epoch time: {epoch_s * 1000:.3f} ms, per step time: {step_s * 1000:.3f} ms", flush=True)
        self.progress.write(
            "epoch",
            epoch=epoch,
            epochs=self.config.epoch_size,
            loss=self.loss_sum / self.steps,
            epoch_s=epoch_s,
            step_s=step_s,
            images_per_s=self.config.batch_size * self.world.ranks / step_s,
        )

    def save(self, keeper: Keeper, done: int, epoch: int, number: int, ending: bool) -> None:
        """Begin to write a checkpoint if one is due after *done* steps, or at the end; tell of those that are whole."""
        every = self.config.save_checkpoint_steps or self.config.save_checkpoint_epochs * self.steps
        last = ending or done == self.last
        if last or done % every == 0:
            self.progress.phase("checkpoint")
            config = self.config
            keeper.start(
                {**self.tensors, **resume.prefixed(self.step.state(self.tensors))},
                Origin(config.net, config.class_num, config.image_size, epoch, number),
                replace(self.course, loss_sum=self.loss_sum),
                lr=float(self.rates[done - 1]),
            )
            if not last:
                self.progress.phase("train")
        self.report_saved(keeper.finished())

    def report_saved(self, finished: Sequence[Saved]) -> None:
        """Tell of checkpoints that have become whole."""
        for saved in finished:
            print(
                f"checkpoint: {saved.path}, {saved.bytes} bytes, training waited {saved.copy_s:.3f} s, "
                f"written in {saved.write_s:.3f} s",
                flush=True,
            )
            self.progress.write(
                "checkpoint",
                path=str(saved.path),
                epoch=saved.origin.epoch,
                step=saved.origin.step,
                global_step=(saved.origin.epoch - 1) * self.steps + saved.origin.step,
                bytes=saved.bytes,
                seconds=saved.seconds,
                copy_s=saved.copy_s,
                write_s=saved.write_s,
                sha256=saved.sha256,
                global_batch=self.course.global_batch,
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
