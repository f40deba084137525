"""Checkpoints: written whole or not at all, the newest few kept, read with one clear line for what is wrong.

A checkpoint is MindSpore's own format with its CRC: the net's weights and batch statistics, and five entries of ours
(net, class_num, image_size, epoch, step), so that who reads it need not guess from the file name.
"""

from __future__ import annotations

import os
import re
import socket
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sknet.errors import InputError, SknetError

if TYPE_CHECKING:
    from mindspore import Parameter, nn

ENTRIES = ("net", "class_num", "image_size", "epoch", "step")
NAME = re.compile(r"(?P<net>.+)-(?P<epoch>\d+)_(?P<step>\d+)\.ckpt")
UNFINISHED = ".{stem}.{host}.{pid}.unfinished.ckpt"  # not matched by NAME; host and process are who writes it
CRC_MARK = b"crc_num"  # ends a checkpoint, with the CRC-32 of all before it in 10 bytes


@dataclass(frozen=True)
class Origin:
    """What a checkpoint says about itself. step counts from 1 inside its epoch."""

    net: str
    class_num: int
    image_size: int
    epoch: int
    step: int


@dataclass(frozen=True)
class Saved:
    """A finished checkpoint: where it is, its size, and how long the writing took."""

    path: Path
    bytes: int
    seconds: float


def prepare_folder(folder: Path) -> None:
    """Make the folder for checkpoints, see that it can be written to, and clear away what killed writers left there.

    Raises InputError when it cannot be written.
    """
    trial = folder / f".trial-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(b"")
        trial.unlink()
    except OSError as exc:
        raise InputError(
            f"cannot write checkpoints to {folder}: {exc.strerror}; choose another --save_checkpoint_path"
        ) from exc
    # Of this host only: whether a writer on another host lives cannot be seen from here.
    for path in folder.glob(UNFINISHED.format(stem="*", host=socket.gethostname(), pid="*")):
        pid = path.name.split(".")[-3]
        if pid.isdigit() and not alive(int(pid)):
            remove(path)


def alive(pid: int) -> bool:
    """Return whether this host has a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is there, but not ours
    return True


class Keeper:
    """Writes checkpoints of one run into one folder and keeps the newest *most* of those it wrote."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = folder.absolute()
        self._most = most
        self._written: list[Path] = []
        os.umask(umask := os.umask(0o077))  # it can only be read by setting it
        self._mode = 0o666 & ~umask

    def save(self, tensors: Mapping[str, Parameter], origin: Origin) -> Saved:
        """Write a net's tensors to {net}-{epoch}_{step}.ckpt. A reader sees the whole file or none.

        Old checkpoints go only after the new one is whole; files of other runs are never deleted.
        Raises SknetError when the disk is full or cannot be written.
        """
        import mindspore as ms

        start = time.monotonic()
        path = self._folder / f"{origin.net}-{origin.epoch}_{origin.step}.ckpt"
        unfinished = self._folder / UNFINISHED.format(stem=path.stem, host=socket.gethostname(), pid=os.getpid())
        data = [{"name": name, "data": tensor} for name, tensor in tensors.items()]
        entries = {name: getattr(origin, name) for name in ENTRIES}
        try:
            ms.save_checkpoint(data, str(unfinished), append_dict=entries, crc_check=True)
            with open(unfinished, "rb") as file:
                os.fsync(file.fileno())
                size = os.fstat(file.fileno()).st_size
            os.chmod(unfinished, self._mode)  # MindSpore makes it readable by its owner alone, and read-only
            os.replace(unfinished, path)
        except (OSError, RuntimeError, ValueError) as exc:
            remove(unfinished)
            raise SknetError(f"cannot write checkpoint {path}: {one_line(exc)}") from exc
        self._written = [*(old for old in self._written if old != path), path]
        while len(self._written) > self._most:
            remove(self._written.pop(0))
        return Saved(path, size, time.monotonic() - start)


def tensors_of(net: nn.Cell) -> dict[str, Parameter]:
    """Return the net's tensors by their place in it: what is saved and loaded.

    Ask the net as build() made it. A parameter's own name changes when the net becomes part of a cell, and mixed
    precision puts cells of its own into the net; the tensors stay the same objects.
    """
    return dict(net.parameters_and_names())


def remove(path: Path) -> None:
    """Delete a file that may be gone already."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass  # an old file too many is no reason to end a run


def one_line(exc: BaseException) -> str:
    """Return the first line of an error's text: MindSpore adds a page of C++ call stack."""
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]


def find(path: Path) -> list[Path]:
    """Return the checkpoint file at *path*, or those in that folder by (epoch, step). Raises InputError if none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"no checkpoint at {path}")
    found = [
        (int(match["epoch"]), int(match["step"]), file)
        for file in path.iterdir()
        if (match := NAME.fullmatch(file.name)) and not file.name.startswith(".")
    ]
    if not found:
        raise InputError(f"no checkpoint named NET-EPOCH_STEP.ckpt in {path}")
    return [file for _, _, file in sorted(found)]


def origin_of(path: Path) -> Origin | None:
    """Return what a checkpoint says of itself; None when another program wrote it.

    Makes no Tensor: on Ascend the ranks must have met before the first one. Raises InputError when the file cannot be
    read, is cut short or damaged.
    """
    from google.protobuf.message import DecodeError
    from mindspore.train.checkpoint_pb2 import Checkpoint

    if not path.is_file():
        raise InputError(f"no checkpoint at {path}")
    stored = Checkpoint()
    try:
        content = path.read_bytes()
        body, mark, crc = content[:-17], content[-17:-10], content[-10:]
        if mark != CRC_MARK:
            body = content
        elif zlib.crc32(body) != int.from_bytes(crc, "big"):
            raise ValueError("its CRC is wrong")
        stored.ParseFromString(body)
        entries = {value.tag: value.tensor.tensor_content for value in stored.value if value.tag in ENTRIES}
        if len(entries) < len(ENTRIES):
            return None
        whole = {name: int.from_bytes(entries[name], "little") for name in ENTRIES if name != "net"}
        return Origin(net=entries["net"].decode("utf-32-le"), **whole)
    except (OSError, ValueError, DecodeError) as exc:
        raise unreadable(path, exc) from exc


def read(path: Path) -> dict[str, Parameter]:
    """Return the weights in a checkpoint. Raises InputError when the file cannot be read, is cut short or damaged."""
    import mindspore as ms

    if not path.is_file():
        raise InputError(f"no checkpoint at {path}")
    try:
        values = ms.load_checkpoint(str(path), crc_check=True)
    except (OSError, RuntimeError, ValueError, TypeError) as exc:
        raise unreadable(path, exc) from exc
    return {name: value for name, value in values.items() if name not in ENTRIES}


def unreadable(path: Path, exc: Exception) -> InputError:
    """Return the error for a checkpoint that cannot be read."""
    return InputError(f"{path} is cut short, damaged or no checkpoint ({one_line(exc)})")


def load(tensors: Mapping[str, Parameter], weights: Mapping[str, Parameter], path: Path) -> None:
    """Put *weights*, read from *path*, into a net's tensors. Raises InputError unless each is there and fits."""
    wrong = [name for name, own in tensors.items() if name not in weights or weights[name].shape != own.shape]
    if wrong:
        first = wrong[0]
        has = tuple(weights[first].shape) if first in weights else "missing"
        raise InputError(
            f"{path} does not fit this net: {len(wrong)} of {len(tensors)} tensors differ, first {first}, "
            f"{has} in the file, {tuple(tensors[first].shape)} in the net; check --net and --class_num"
        )
    for name, own in tensors.items():
        own.set_data(weights[name])
