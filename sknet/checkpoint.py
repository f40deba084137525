"""Checkpoints: written whole or not at all, the newest few kept, read with one clear line for what is wrong.

A checkpoint is MindSpore's own format with its CRC: the net's weights and batch statistics, and five entries of ours
(net, class_num, image_size, epoch, step), so that who reads it need not guess from the file name.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sknet.errors import InputError, SknetError

if TYPE_CHECKING:
    from mindspore import Parameter, nn

ENTRIES = ("net", "class_num", "image_size", "epoch", "step")
NAME = re.compile(r"(?P<net>.+)-(?P<epoch>\d+)_(?P<step>\d+)\.ckpt")


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
    """Make the folder for checkpoints and see that it can be written to. Raises InputError when it cannot."""
    trial = folder / f".trial-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(b"")
        trial.unlink()
    except OSError as exc:
        raise InputError(
            f"cannot write checkpoints to {folder}: {exc.strerror}; choose another --save_checkpoint_path"
        ) from exc


class Keeper:
    """Writes checkpoints of one run into one folder and keeps the newest *most* of those it wrote."""

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = folder.absolute()
        self._most = most
        self._written: list[Path] = []

    def save(self, net: nn.Cell, origin: Origin) -> Saved:
        """Write {net}-{epoch}_{step}.ckpt. A reader sees the whole file or none.

        Old checkpoints go only after the new one is whole; files of other runs are never deleted.
        Raises SknetError when the disk is full or cannot be written.
        """
        import mindspore as ms

        start = time.monotonic()
        path = self._folder / f"{origin.net}-{origin.epoch}_{origin.step}.ckpt"
        unfinished = self._folder / f".{path.stem}.{os.getpid()}.unfinished.ckpt"  # not matched by NAME
        entries = {name: getattr(origin, name) for name in ENTRIES}
        try:
            ms.save_checkpoint(tensors(net), str(unfinished), append_dict=entries, crc_check=True)
            with open(unfinished, "rb") as file:
                os.fsync(file.fileno())
                size = os.fstat(file.fileno()).st_size
            os.chmod(unfinished, 0o644)  # MindSpore makes it readable by its owner alone, and read-only
            os.replace(unfinished, path)
        except (OSError, RuntimeError, ValueError) as exc:
            remove(unfinished)
            raise SknetError(f"cannot write checkpoint {path}: {one_line(exc)}") from exc
        self._written = [*(old for old in self._written if old != path), path]
        while len(self._written) > self._most:
            remove(self._written.pop(0))
        return Saved(path, size, time.monotonic() - start)


def tensors(net: nn.Cell) -> list[dict[str, object]]:
    """Return the net's tensors by their place in it. Their own names change when the net becomes part of a cell."""
    return [{"name": name, "data": parameter} for name, parameter in net.parameters_and_names()]


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


def read(path: Path) -> tuple[dict[str, Parameter], Origin | None]:
    """Return the weights in a checkpoint, and what it says of its origin; None when another program wrote it.

    Raises InputError when the file cannot be read, is cut short or damaged.
    """
    import mindspore as ms

    try:
        if not path.is_file():
            raise InputError(f"no checkpoint at {path}")
        values = ms.load_checkpoint(str(path), crc_check=True)
    except (OSError, RuntimeError, ValueError, TypeError) as exc:
        raise InputError(f"{path} is cut short, damaged or no checkpoint ({one_line(exc)})") from exc
    entries = {name: values.pop(name) for name in ENTRIES if name in values}
    if len(entries) < len(ENTRIES):
        return values, None
    whole = {name: int(entries[name].asnumpy()) for name in ENTRIES if name != "net"}
    return values, Origin(net=str(entries["net"]), **whole)


def load(net: nn.Cell, weights: dict[str, Parameter], path: Path) -> None:
    """Put *weights*, read from *path*, into the net. Raises InputError unless every tensor is there and fits."""
    wanted = dict(net.parameters_and_names())
    wrong = [name for name, own in wanted.items() if name not in weights or weights[name].shape != own.shape]
    if wrong:
        first = wrong[0]
        has = tuple(weights[first].shape) if first in weights else "missing"
        raise InputError(
            f"{path} does not fit this net: {len(wrong)} of {len(wanted)} tensors differ, first {first}, "
            f"{has} in the file, {tuple(wanted[first].shape)} in the net; check --net and --class_num"
        )
    for name, own in wanted.items():
        own.set_data(weights[name])
