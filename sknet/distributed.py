"""This process among the ranks of a run: who it is, how the ranks meet, and how they part."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from sknet.config import Config
from sknet.errors import InputError, SknetError
from sknet.goodbye import Goodbye


@dataclass(frozen=True)
class World:
    """One rank of *ranks*, on its host's device *device*."""

    rank: int = 0
    ranks: int = 1
    device: int = 0

    @property
    def distributed(self) -> bool:
        return self.ranks > 1


def number(environment: Mapping[str, str], name: str, default: int) -> int:
    """Return the whole number in a variable, or *default* when unset. Raises InputError for anything else."""
    text = environment.get(name) or str(default)
    if not (text.isascii() and text.isdigit()):
        raise InputError(f"environment variable {name} is {text!r}, not a whole number")
    return int(text)


def world_of(config: Config, environment: Mapping[str, str]) -> World:
    """Return who this process is, by RANK_SIZE, RANK_ID, DEVICE_ID (of rank tables) or MS_WORKER_NUM, MS_NODE_ID.

    Raises InputError when they disagree with one another or with --device_num, or nothing says how many ranks.
    """
    said = {name: number(environment, name, 1) for name in ("RANK_SIZE", "MS_WORKER_NUM") if environment.get(name)}
    if config.device_num is not None:
        said["--device_num"] = config.device_num
    device = number(environment, "DEVICE_ID", 0)
    if not said and config.run_distribute:
        raise InputError("run_distribute needs RANK_SIZE or --device_num: how many ranks there are")
    if len(set(said.values())) > 1:
        raise InputError(f"how many ranks? {', '.join(f'{name}={count}' for name, count in said.items())} disagree")
    ranks = next(iter(said.values()), 1)
    if not config.run_distribute and ranks == 1:
        return World(device=device)
    rank = number(environment, "RANK_ID", number(environment, "MS_NODE_ID", device))
    if rank >= ranks:
        raise InputError(f"RANK_ID {rank} must be below RANK_SIZE {ranks}")
    return World(rank, ranks, device)


def schedule_only(environment: Mapping[str, str]) -> bool:
    """Serve as the scheduler of MindSpore's dynamic cluster if that is this process's role; return whether it was.

    `msrun` starts the user's own program for it. Returns when all workers have left; raises SknetError if one died.
    For a single worker it returns at once: that one never asks for a scheduler, which would wait for it for minutes.
    """
    if environment.get("MS_ROLE") != "MS_SCHED":
        return False
    if environment.get("MS_WORKER_NUM") == "1":
        return True
    from mindspore.communication import init

    try:
        init()
    except RuntimeError as exc:
        raise SknetError(f"scheduler: {str(exc).strip().splitlines()[0]}") from exc
    return True


def join(world: World, target: str, environment: Mapping[str, str]) -> Callable[[], None]:
    """Meet the other ranks; return what to call when this rank needs them no more.

    Does nothing for a single rank. Raises InputError or SknetError when the ranks cannot meet.
    """
    if not world.distributed:
        return lambda: None
    if target == "CPU" and not environment.get("MS_SCHED_HOST"):
        raise InputError(
            "several ranks on CPU need MS_ROLE, MS_SCHED_HOST, MS_SCHED_PORT, MS_WORKER_NUM and a "
            "scheduler process; `ascendrun launch` or `msrun` set them"
        )
    from mindspore.communication import get_group_size, get_rank, init

    with whole_machine():
        try:
            init()
        except RuntimeError as exc:
            raise SknetError(
                f"rank {world.rank} could not meet the others: {str(exc).strip().splitlines()[0]}"
            ) from exc
    if (get_rank(), get_group_size()) != (world.rank, world.ranks):
        raise SknetError(
            f"the cluster calls this rank {get_rank()} of {get_group_size()}, "
            f"its environment {world.rank} of {world.ranks}; several hosts under msrun need its --node_rank"
        )
    if target == "CPU":
        return Goodbye(world.rank, world.ranks, environment["MS_SCHED_HOST"], total)
    fuse_collectives(world)
    return lambda: None


def fuse_collectives(world: World) -> None:
    """Let MindSpore gather gradients into few all-reduces, sent while the backward pass still runs."""
    import mindspore as ms

    ms.set_auto_parallel_context(
        parallel_mode=ms.ParallelMode.DATA_PARALLEL,
        device_num=world.ranks,
        comm_fusion={"allreduce": {"mode": "auto", "config": None}},
    )


def total(values: np.ndarray) -> np.ndarray:
    """Return the sum of the ranks' float32 *values*, the same on every rank."""
    import mindspore as ms
    from mindspore import ops

    summed: np.ndarray = ops.AllReduce()(ms.Tensor(values)).asnumpy()
    return summed


@contextmanager
def whole_machine() -> Iterator[None]:
    """Lift this thread's CPU affinity for a while; threads started meanwhile keep the wider one.

    MindSpore's cluster client gives its event thread 40 ms to finish a connection and else starts again. Where both
    share one core that fails again and again: pinned ranks took 26 to 80 s to join, unpinned ones 4 to 7 s.
    """
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
