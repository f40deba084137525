"""This process among the ranks of a run: who it is, how the ranks meet, and how they part."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from sknet.config import Config
from sknet.errors import InputError, SknetError


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
    if not text.isdigit():
        raise InputError(f"environment variable {name} is {text!r}, not a whole number")
    return int(text)


def world_of(config: Config, environment: Mapping[str, str]) -> World:
    """Return who this process is, by RANK_SIZE, RANK_ID, DEVICE_ID (of rank tables) or MS_WORKER_NUM, MS_NODE_ID.

    Raises InputError when they disagree with one another or with --device_num.
    """
    ranks = number(environment, "RANK_SIZE", number(environment, "MS_WORKER_NUM", config.device_num or 1))
    device = number(environment, "DEVICE_ID", 0)
    if not config.run_distribute and ranks == 1:
        return World(device=device)
    if config.device_num not in (None, ranks):
        raise InputError(f"--device_num={config.device_num}, but RANK_SIZE says {ranks}")
    rank = number(environment, "RANK_ID", number(environment, "MS_NODE_ID", device))
    if rank >= ranks:
        raise InputError(f"RANK_ID {rank} must be below RANK_SIZE {ranks}")
    return World(rank, ranks, device)


def schedule_only(environment: Mapping[str, str]) -> bool:
    """Serve as the scheduler of MindSpore's dynamic cluster if that is this process's role; return whether it was.

    `msrun` starts the user's own program for it. Returns when all workers have left; raises SknetError if one died.
    """
    if environment.get("MS_ROLE") != "MS_SCHED":
        return False
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
            f"the environment {world.rank} of {world.ranks}"
        )
    if target == "CPU":
        return Goodbye(world, environment["MS_SCHED_HOST"])
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


class Goodbye:
    """Keeps every rank alive until none needs another one any more. Call it once, at the end.

    A rank's last all-reduce returns when its own part is done; a neighbour may still wait for its acknowledgement. On
    the CPU backend a rank that then exits leaves that neighbour to fail 30 s later ("RingAllReduce wait sending
    failed"). Another collective cannot help: it would only be the new last one. So the ranks part over a plain TCP
    connection: each tells rank 0 that it is done, and rank 0 answers once all are. Whoever cannot be reached within
    LONGEST_WAIT_S is not waited for: the work is done, and parting must not turn it into a failure.
    """

    LONGEST_WAIT_S = 30.0

    def __init__(self, world: World, scheduler: str) -> None:
        """Open rank 0's port and tell every rank where it is, by an all-reduce; this also proves that those work."""
        import mindspore as ms
        from mindspore import ops

        self._world = world
        self._listener: socket.socket | None = None
        where = np.zeros(5, np.float32)  # four bytes of the address, and the port; rank 0 alone adds to the sum
        if world.rank == 0:
            self._listener = socket.create_server((address_towards(scheduler), 0), backlog=world.ranks)
            address, port = self._listener.getsockname()
            where[:] = [*socket.inet_aton(address), port]
        *octets, port = ops.AllReduce()(ms.Tensor(where)).asnumpy().astype(int).tolist()
        self._address = (socket.inet_ntoa(bytes(octets)), port)

    def __call__(self) -> None:
        try:
            if self._listener is None:
                with socket.create_connection(self._address, timeout=self.LONGEST_WAIT_S) as rank_0:
                    rank_0.sendall(bytes([1]))
                    rank_0.recv(1)
            else:
                self._wait_for_all(self._listener)
        except OSError:
            pass

    def _wait_for_all(self, listener: socket.socket) -> None:
        deadline = time.monotonic() + self.LONGEST_WAIT_S
        with listener, ExitStack() as connections:
            waiting: list[socket.socket] = []
            while len(waiting) < self._world.ranks - 1:
                listener.settimeout(max(0.01, deadline - time.monotonic()))
                connection = connections.enter_context(listener.accept()[0])
                connection.settimeout(max(0.01, deadline - time.monotonic()))
                if connection.recv(1):
                    waiting.append(connection)
            for connection in waiting:
                connection.sendall(bytes([1]))


def address_towards(host: str) -> str:
    """Return the IPv4 address by which *host*, and so the other ranks, reach this machine. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return str(probe.getsockname()[0])


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
