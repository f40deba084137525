"""The file of a checkpoint: how it is laid out, written and read.

It is MindSpore's own format with its CRC:

- the net's weights and batch statistics, by their place in the net: all that read() returns;
- what a resumed run needs beside them, momentum buffers and loss scale, named with STATE before them;
- entries of ours: net, class_num, image_size, epoch, step, and COURSE, the rest of what a resumed run needs, as JSON.

So who reads it need not guess from the file name. Beside STEM.ckpt lies STEM.json, the sidecar, for whoever has no
MindSpore: it appears when the checkpoint is whole, and its SHA-256 says whether it still is (verify).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sknet.config import check_range, keys_of
from sknet.errors import InputError

if TYPE_CHECKING:
    from mindspore import Parameter
    from mindspore.train.checkpoint_pb2 import Checkpoint

ENTRIES = ("net", "class_num", "image_size", "epoch", "step")
COURSE = "course"
STATE = "state."
NAME = re.compile(r"(?P<net>.+)-(?P<epoch>\d+)_(?P<step>\d+)\.ckpt")
UNFINISHED = ".{stem}.{host}.{pid}.unfinished.ckpt"  # not matched by NAME; host and process are who writes it
MOST_BYTES = 1 << 20  # a sidecar is a page of text
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
class Course:
    """What shapes the course of a run, and how far it had come, beside its tensors."""

    run: str  # made up at the start, kept by whoever resumes it
    steps_per_epoch: int
    ranks: int  # that began it; fewer or more may go on with the same global batch
    pictures: int  # to train on
    loss_sum: float  # of the steps of this epoch so far
    settings: Mapping[str, Any]  # of Config, but for those that a resumed run may change; batch_size is for *ranks*

    @property
    def global_batch(self) -> int:
        """Return how many pictures all ranks together take in each step."""
        batch_size: int = self.settings["batch_size"]
        return self.ranks * batch_size


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds: shapes of the net's tensors by name; None for what another program did not write."""

    origin: Origin | None
    course: Course | None
    shapes: Mapping[str, tuple[int, ...]]


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


def write_whole(path: Path, write: Callable[[str], None], mode: int, stale: Path | None = None) -> None:
    """Let *write* fill a file that a reader then sees at *path*, whole or not at all; delete *stale* just before.

    *mode* are the permissions of the file. Raises what *write* raises, and OSError, and then leaves nothing behind.
    """
    unfinished = path.parent / UNFINISHED.format(stem=path.name, host=socket.gethostname(), pid=os.getpid())
    try:
        write(str(unfinished))
        with open(unfinished, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(unfinished, mode)  # MindSpore makes it readable by its owner alone, and read-only
        if stale:
            remove(stale)
        os.replace(unfinished, path)
    except BaseException:
        remove(unfinished)
        remove(unfinished.with_suffix(".tmp"))  # MindSpore's own, on the way to *unfinished*
        raise


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sidecar_of(path: Path) -> dict[str, Any]:
    """Return what a checkpoint's sidecar says; nothing when it has none that can be read."""
    try:
        with open(path.with_suffix(".json"), "rb") as file:
            told = json.loads(file.read(MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def verify(path: Path) -> None:
    """Compare a checkpoint with its sidecar. Raises InputError when either is missing or the bytes differ."""
    wanted = sidecar_of(path).get("sha256")
    if wanted is None:
        raise InputError(f"{path} has no sidecar {path.stem}.json that says its SHA-256")
    try:
        found = sha256_of(path)
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}") from exc
    if found != wanted:
        raise InputError(f"{path} is damaged: its SHA-256 is not the one in {path.stem}.json; use another checkpoint")


def origin_of(path: Path) -> Origin | None:
    """Return what a checkpoint says of itself; None when another program wrote it. Raises as describe() does."""
    return describe(path).origin


def describe(path: Path) -> Contents:
    """Return what a checkpoint holds.

    Makes no Tensor: on Ascend the ranks must have met before the first one. Raises InputError when the file cannot be
    read, is cut short or damaged, or is of a net that cannot be.
    """
    stored = parsed(path)
    try:
        ours = {value.tag: value.tensor for value in stored.value if value.tag in (*ENTRIES, COURSE)}
        shapes = {
            value.tag: tuple(value.tensor.dims)
            for value in stored.value
            if value.tag not in ours and not value.tag.startswith(STATE)
        }
        origin = course = None
        if all(name in ours for name in ENTRIES):
            whole = {name: int.from_bytes(ours[name].tensor_content, "little") for name in ENTRIES if name != "net"}
            origin = Origin(net=text_of(ours["net"]), **whole)
            for name in ("net", "class_num", "image_size"):
                check_range(keys_of("train")[name], getattr(origin, name))
        if COURSE in ours:
            told = json.loads(text_of(ours[COURSE]))
            course = Course(**{field.name: told[field.name] for field in fields(Course)})
            if not (isinstance(course.settings, dict) and isinstance(course.loss_sum, float)):
                raise TypeError("its course cannot be")
            counts = (course.steps_per_epoch, course.ranks, course.settings.get("batch_size"))
            if not all(isinstance(count, int) and count > 0 for count in counts):
                raise TypeError("its course cannot be")
        return Contents(origin, course, shapes)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise unreadable(path, exc) from exc
    except InputError as exc:
        raise InputError(f"{path}: {exc}") from exc


def text_of(tensor: Checkpoint.Value) -> str:
    """Return a text as NumPy lays it out in memory."""
    text: str = tensor.tensor_content.decode("utf-32-le")
    return text


def parsed(path: Path) -> Checkpoint:
    """Return the protobuf message of a checkpoint whose CRC is right. Raises InputError."""
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
        if not stored.value:
            raise ValueError("it is empty")
    except (OSError, ValueError, DecodeError, MemoryError) as exc:
        raise unreadable(path, exc) from exc
    return stored


def read(path: Path) -> dict[str, Parameter]:
    """Return the weights in a checkpoint. Raises InputError when the file cannot be read, is cut short or damaged."""
    return {name: value for name, value in read_all(path).items() if name not in ENTRIES and not name.startswith(STATE)}


def read_all(path: Path) -> dict[str, Parameter]:
    """Return the weights and, with STATE before their names, what else a resumed run needs. Raises as read() does."""
    import mindspore as ms

    if not path.is_file():
        raise InputError(f"no checkpoint at {path}")
    try:
        values = ms.load_checkpoint(str(path), crc_check=True)
    except (OSError, RuntimeError, ValueError, TypeError) as exc:
        raise unreadable(path, exc) from exc
    return {name: value for name, value in values.items() if name not in (*ENTRIES, COURSE)}


def unreadable(path: Path, exc: Exception) -> InputError:
    """Return the error for a checkpoint that cannot be read."""
    return InputError(f"{path} is cut short, damaged or no checkpoint ({one_line(exc)})")
