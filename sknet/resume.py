"""Going on with a run as if it had never stopped."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from sknet.checkpoint import STATE, Course, Origin, describe, find, load, read_all, sidecar_of, verify
from sknet.config import FREE_ON_RESUME, Config, spell
from sknet.distributed import World
from sknet.errors import InputError, SknetError

if TYPE_CHECKING:
    from mindspore import Parameter


VARIABLE = "ASCENDRUN_RESUME"


@dataclass(frozen=True)
class Start:
    """A checkpoint that a run goes on from."""

    path: Path
    origin: Origin
    course: Course

    @property
    def done(self) -> int:
        """Return how many steps of the whole schedule are done."""
        return (self.origin.epoch - 1) * self.course.steps_per_epoch + self.origin.step


def settings_of(config: Config) -> dict[str, Any]:
    """Return the settings that shape the course of a run, and so cannot change when it is resumed."""
    return {
        item.name: getattr(config, item.name) for item in dataclasses.fields(config) if item.name not in FREE_ON_RESUME
    }


def newest(path: Path) -> Start:
    """Return the checkpoint at *path*, or the newest whole one in that folder; name on stderr those passed over.

    Makes no Tensor. Raises InputError when there is none, or it holds weights alone.
    """
    for file in reversed(find(path)):
        try:
            if "sha256" in sidecar_of(file):
                verify(file)
            contents = describe(file)
        except InputError as exc:
            if file == path:
                raise
            print(f"sknet.train: passed over: {exc}", file=sys.stderr, flush=True)
            continue
        if contents.origin is None or contents.course is None:
            raise InputError(
                f"{file} holds weights alone, no optimiser state to resume from; start from them with "
                f"--pre_trained={file} --pretrain_epoch_size=EPOCHS"
            )
        return Start(file, contents.origin, contents.course)
    raise InputError(f"no checkpoint in {path} is whole")


def wanted(config: Config, environment: Mapping[str, str]) -> Config:
    """Return the settings of a run that whoever started it resumes by the environment; --resume goes before that.

    Such a run may have begun with pre_trained: all that it had from there is in its own checkpoint.
    """
    path = environment.get(VARIABLE)
    if config.resume or not path:
        return config
    return dataclasses.replace(config, resume=path, pre_trained=None, pretrain_epoch_size=0)


def shared_out(start: Start, config: Config, ranks: int) -> Config:
    """Return the settings by which *ranks* ranks take the run's global batch in each step.

    In each step the ranks together see the same pictures, however many they are. With the batch_size of the ranks that
    began, fewer ranks take several such batches one after the other (accumulate): batch norm and memory see no
    difference. With the one that is right for these ranks they take it at once. Raises InputError where they cannot
    share evenly.
    """
    batch, begun_with = start.course.global_batch, start.course.settings["batch_size"]
    if batch % ranks:
        raise InputError(
            f"cannot resume from {start.path} on {ranks} ranks: its {batch} pictures a step cannot be shared out "
            f"evenly; take {', '.join(str(count) for count in range(1, batch + 1) if batch % count == 0)} ranks"
        )
    share = batch // ranks
    if config.batch_size != begun_with:
        return config  # check() looks whether it is the share
    parts = 1 if share % begun_with else share // begun_with
    return dataclasses.replace(config, batch_size=share, accumulate=config.accumulate * parts)


def check(start: Start, config: Config, steps: int, ranks: int, pictures: int) -> None:
    """Raise InputError, naming all that differs, unless this run has the course of the one that it resumes.

    *config* comes from shared_out(). amp_level must be what "auto" turned out to be. A setting that is newer than the
    checkpoint had its default then.
    """
    defaults = {item.name: item.default for item in dataclasses.fields(config)}
    batch = start.course.global_batch // ranks
    before = {**start.course.settings, "batch_size": batch, "training pictures": start.course.pictures}
    now = {**settings_of(config), "training pictures": pictures}
    differ = [
        f"{name} {spell(now[name])}, not {spell(was)}"
        for name in now
        if now[name] != (was := before.get(name, defaults.get(name)))
    ]
    if start.course.steps_per_epoch != steps and not differ:
        differ = [f"steps per epoch {steps}, not {start.course.steps_per_epoch}"]
    if differ:
        raise InputError(
            f"cannot resume from {start.path}: here {'; '.join(differ)} as there; give the same, or start a new run "
            f"from its weights with --pre_trained"
        )


def agree(start: Start, world: World, total: Callable[[np.ndarray], np.ndarray]) -> None:
    """Raise SknetError on every rank unless all resume from the same bytes. *total* sums an array over the ranks."""
    mine = np.zeros((world.ranks, 4), np.float32)  # float32 holds 16 bits of the CRC exactly
    crc = crc32(start.path.read_bytes())
    mine[world.rank] = start.origin.epoch, start.origin.step, crc >> 16, crc & 0xFFFF
    every = total(mine.ravel()).reshape(mine.shape)
    if (every != every[0]).any():
        told = ", ".join(f"rank {rank} epoch {row[0]:.0f} step {row[1]:.0f}" for rank, row in enumerate(every))
        raise SknetError(f"the ranks resume from different checkpoints ({told}); give all the same file by --resume")


def restore(start: Start, tensors: Mapping[str, Parameter], state: Mapping[str, Parameter]) -> None:
    """Put weights, batch statistics, momentum buffers and loss scale back. Raises InputError unless all fit."""
    load({**tensors, **prefixed(state)}, read_all(start.path), start.path)


def prefixed(state: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """Return TrainStep.state() under the names that a checkpoint gives it."""
    return {STATE + name: tensor for name, tensor in state.items()}
