"""The job that faults are put into: each step sums a number over all ranks, rank 0 keeps a checkpoint of every fifth.

Argument: `sockets` or `mindspore`, what the ranks sum by. $CHAOS is a folder; what its file `rank-N` says befalls
rank N at its next step, once.
"""

import hashlib
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
from pathlib import Path

RANK, SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
WORK, CHAOS = Path(os.environ["ASCENDRUN_WORK_FOLDER"]), Path(os.environ["CHAOS"])
STEP_S = 0.1


class Sockets:
    """A sum over all ranks by way of rank 0."""

    def __init__(self) -> None:
        place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        self.peers: "list[socket.socket]" = []
        if RANK == 0:
            with socket.create_server(place) as server:
                self.peers = [server.accept()[0] for _ in range(SIZE - 1)]
        else:
            self.peers = [self.dial(place)]

    @staticmethod
    def dial(place: "tuple[str, int]") -> socket.socket:
        over = time.monotonic() + 30
        while True:
            try:
                return socket.create_connection(place)
            except OSError:
                if time.monotonic() > over:
                    raise
                time.sleep(0.05)

    @staticmethod
    def hear(peer: socket.socket) -> float:
        data = b""
        while len(data) < 8:
            block = peer.recv(8 - len(data))
            if not block:
                raise ConnectionResetError("all-reduce: Connection closed by peer")
            data += block
        return float(struct.unpack("d", data)[0])

    def all_reduce(self, value: float) -> float:
        if RANK == 0:
            total = value + sum(self.hear(peer) for peer in self.peers)
            for peer in self.peers:
                peer.sendall(struct.pack("d", total))
            return total
        self.peers[0].sendall(struct.pack("d", value))
        return self.hear(self.peers[0])


class MindSpore:
    """The same with MindSpore's collectives, on the CPU."""

    def __init__(self) -> None:
        import mindspore as ms
        from mindspore import ops
        from mindspore.communication import init

        ms.set_context(mode=ms.PYNATIVE_MODE, device_target="CPU")
        init()
        self.ms, self.reduce = ms, ops.AllReduce()

    def all_reduce(self, value: float) -> float:
        return float(self.reduce(self.ms.Tensor([value], self.ms.float32)).asnumpy()[0])


def tell(**fact: object) -> None:
    with open(os.environ["ASCENDRUN_PROGRESS"], "a") as progress:
        progress.write(json.dumps(fact) + "\n")


def save(step: int, weight: float) -> None:
    content = json.dumps({"step": step, "weight": weight, "more": "w" * 200_000}).encode()
    path = WORK / f"toy-1_{step}.ckpt"
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.rename(path)
    sha256 = hashlib.sha256(content).hexdigest()
    tell(kind="checkpoint", path=str(path), epoch=1, step=step, bytes=len(content), sha256=sha256)


def befall() -> None:
    """Do what somebody wants to befall this rank."""
    order = CHAOS / f"rank-{RANK}"
    try:
        what = order.read_text()
        order.unlink()
    except FileNotFoundError:
        return
    print(f"chaos: {what}", flush=True)
    if what == "raise":
        raise ValueError("something that nobody thought of")
    if what == "exit 0":
        os._exit(0)
    if what == "loop":
        while True:
            pass
    if what == "never join":
        time.sleep(3600)
    if what == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        list(bytearray(1 << 28) for _ in range(99))
    if what == "nan":
        tell(kind="step", epoch=1, step=0, loss=float("nan"))
        sys.exit("loss is not finite: nan; it diverged")
    if what.startswith("signal "):
        os.kill(os.getpid(), getattr(signal, what.split()[1]))


def main() -> None:
    if os.environ.get("BROKEN") == str(RANK):
        import no_such_module  # noqa: F401
    first, weight = 0, 0.0
    if "ASCENDRUN_RESUME" in os.environ:
        told = json.loads(Path(os.environ["ASCENDRUN_RESUME"]).read_bytes())
        first, weight = told["step"], told["weight"]
    together = {"sockets": Sockets, "mindspore": MindSpore}[sys.argv[1]]()
    for step in range(first + 1, 100_000):
        befall()
        weight += together.all_reduce(1.0 / step) / SIZE
        tell(kind="step", epoch=1, step=step, loss=weight)
        if RANK == 0 and step % 5 == 0:
            save(step, weight)
        time.sleep(STEP_S)


main()
