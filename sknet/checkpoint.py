"""The checkpoints of a run: written beside training, the newest few kept, found and loaded again.

checkpoint_file.py says what is in one.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sknet.checkpoint_file import (
    COURSE,
    ENTRIES,
    NAME,
    STATE,
    UNFINISHED,
    Contents,
    Course,
    Origin,
    describe,
    one_line,
    origin_of,
    read,
    read_all,
    remove,
    sha256_of,
    sidecar_of,
    verify,
    write_whole,
)  # fmt: skip
from sknet.errors import InputError, SknetError

if TYPE_CHECKING:
    from mindspore import Parameter, nn

__all__ = [
    "NAME",
    "STATE",
    "UNFINISHED",
    "Contents",
    "Course",
    "Keeper",
    "Origin",
    "Saved",
    "check_fit",
    "describe",
    "find",
    "load",
    "one_line",
    "origin_of",
    "prepare_folder",
    "read",
    "read_all",
    "shapes_of",
    "sidecar_of",
    "tensors_of",
    "verify",
]  # fmt: skip


@dataclass(frozen=True)
class Saved:
    """A finished checkpoint: where it is, its size, how long training stood still for it, and how long writing took."""

    path: Path
    bytes: int
    sha256: str
    copy_s: float
    write_s: float
    origin: Origin

    @property
    def seconds(self) -> float:
        return self.copy_s + self.write_s


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
    ours = Path(UNFINISHED.format(stem="*", host=socket.gethostname(), pid="*"))
    for path in (*folder.glob(ours.name), *folder.glob(ours.with_suffix(".tmp").name)):  # MindSpore writes the second
        pid = path.name.split(".")[-3]
        if pid.isdecimal() and not alive(int(pid)):
            remove(path)


def alive(pid: int) -> bool:
    """Return whether this host has a process of that number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # it is there, but not ours
    return True


class Keeper:
    """Writes checkpoints of one run into one folder and keeps the newest *most* of those it wrote.

    One thread writes, beside training. Training waits for the copy to memory, and for a checkpoint that is still being
    written when the next one is due, so there is one copy only. close() waits for the last one.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = folder.absolute()
        self._most = most
        self._written: list[Path] = []
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[Saved] | None = None
        self._finished: list[Saved] = []
        self._memory: dict[str, np.ndarray] = {}
        os.umask(umask := os.umask(0o077))  # it can only be read by setting it
        self._mode = 0o666 & ~umask

    def adopt(self, run: str, until: Origin) -> None:
        """Count the checkpoints that earlier parts of *run* left in the folder, up to *until*, as written by us."""
        for path in found_in(self._folder):
            told = sidecar_of(path)
            if told.get("run") == run and place_of(path) <= (until.epoch, until.step):
                self._written.append(path)

    def save(
        self, tensors: Mapping[str, Parameter], origin: Origin, course: Course | None = None, **further: Any
    ) -> Saved:
        """Write as start() does, and wait until the file is whole."""
        self.start(tensors, origin, course, **further)
        return self.wait()[-1]

    def start(
        self, tensors: Mapping[str, Parameter], origin: Origin, course: Course | None = None, **further: Any
    ) -> None:
        """Copy tensors to memory and begin to write them to {net}-{epoch}_{step}.ckpt, *further* to its sidecar.

        A reader sees the whole file or none. Old checkpoints go only after the new one is whole; files of other runs
        are never deleted. Raises SknetError when the checkpoint before this one could not be written.
        """
        began = time.monotonic()
        self._collect()
        for name, tensor in tensors.items():
            self._copy(name, tensor.asnumpy())
        self._pending = self._writer.submit(
            self._write, list(tensors), origin, course, further, time.monotonic() - began
        )

    def _copy(self, name: str, values: np.ndarray) -> None:
        """Copy into the memory of the checkpoint before: into new pages it would take ten times as long."""
        if name not in self._memory:
            self._memory[name] = np.empty_like(values)
        np.copyto(self._memory[name], values)

    def finished(self) -> list[Saved]:
        """Return what has become whole since this was last asked. Raises SknetError when writing failed."""
        if self._pending and self._pending.done():
            self._collect()
        done, self._finished = self._finished, []
        return done

    def wait(self) -> list[Saved]:
        """Return the same as finished() once nothing is being written any more."""
        self._collect()
        return self.finished()

    def close(self) -> list[Saved]:
        """Wait, and end the thread."""
        self._writer.shutdown()
        return self.wait()

    def _collect(self) -> None:
        if self._pending:
            pending, self._pending = self._pending, None
            self._finished.append(pending.result())

    def _write(
        self, names: Sequence[str], origin: Origin, course: Course | None, further: Mapping[str, Any], copy_s: float
    ) -> Saved:
        import mindspore as ms

        began = time.monotonic()
        path = self._folder / f"{origin.net}-{origin.epoch}_{origin.step}.ckpt"
        spoilt = [name for name in names if not np.isfinite(self._memory[name]).all()]
        if spoilt:  # the loss, which comes before the update, tells only at the next step, if there is one
            raise SknetError(
                f"epoch {origin.epoch} step {origin.step} left numbers in {spoilt[0]} that are not finite: {path.name} "
                f"is not written; lower --lr_max or, in half precision, --loss_scale"
            )
        data = [{"name": name, "data": ms.Tensor.from_numpy(self._memory[name])} for name in names]
        entries = {name: getattr(origin, name) for name in ENTRIES}
        if course:
            entries[COURSE] = json.dumps(asdict(course))
        try:
            write_whole(
                path,
                lambda unfinished: ms.save_checkpoint(data, unfinished, append_dict=entries, crc_check=True),
                self._mode,
                stale=path.with_suffix(".json"),
            )
            sha256, size = sha256_of(path), path.stat().st_size
            saved = Saved(path, size, sha256, copy_s, time.monotonic() - began, origin)
            text = json.dumps(sidecar(saved, course, further), indent=2, allow_nan=False) + "\n"
            write_whole(path.with_suffix(".json"), lambda unfinished: write_text(unfinished, text), self._mode)
        except (OSError, RuntimeError, ValueError) as exc:
            raise SknetError(f"cannot write checkpoint {path}: {one_line(exc)}") from exc
        self._written = [*(old for old in self._written if old != path), path]
        while len(self._written) > self._most:
            old = self._written.pop(0)
            remove(old.with_suffix(".json"))
            remove(old)
        return saved


def sidecar(saved: Saved, course: Course | None, further: Mapping[str, Any]) -> dict[str, Any]:
    """Return what STEM.json says."""
    told: dict[str, Any] = {"checkpoint": saved.path.name, **asdict(saved.origin)}
    if course:
        steps = course.steps_per_epoch
        told |= {
            "run": course.run,
            "steps_per_epoch": steps,
            "global_step": (saved.origin.epoch - 1) * steps + saved.origin.step,
            "ranks": course.ranks,
            "global_batch": course.global_batch,
            "metrics": {"loss": course.loss_sum / saved.origin.step},
        }
    return {
        **told,
        **further,
        "bytes": saved.bytes,
        "sha256": saved.sha256,
        "copy_s": saved.copy_s,
        "write_s": saved.write_s,
        "mindspore": version("mindspore"),
        "written_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def write_text(path: str, text: str) -> None:
    """Write a text file as UTF-8. Raises OSError."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def tensors_of(net: nn.Cell) -> dict[str, Parameter]:
    """Return the net's tensors by their place in it: what is saved and loaded.

    Ask the net as build() made it. A parameter's own name changes when the net becomes part of a cell, and mixed
    precision puts cells of its own into the net; the tensors stay the same objects.
    """
    return dict(net.parameters_and_names())


def find(path: Path) -> list[Path]:
    """Return the checkpoint file at *path*, or those in that folder by (epoch, step). Raises InputError if none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"no checkpoint at {path}")
    found = found_in(path)
    if not found:
        raise InputError(f"no checkpoint named NET-EPOCH_STEP.ckpt in {path}")
    return found


def found_in(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder by (epoch, step)."""
    named = [path for path in folder.iterdir() if NAME.fullmatch(path.name) and not path.name.startswith(".")]
    return sorted(named, key=lambda path: (place_of(path), path))


def place_of(path: Path) -> tuple[int, int]:
    """Return the epoch and step in the name of a checkpoint; (0, 0) for any other name."""
    match = NAME.fullmatch(path.name)
    return (int(match["epoch"]), int(match["step"])) if match else (0, 0)


def load(tensors: Mapping[str, Parameter], weights: Mapping[str, Parameter], path: Path) -> None:
    """Put *weights*, read from *path*, into a net's tensors. Raises InputError unless each is there and fits."""
    check_fit(shapes_of(tensors), shapes_of(weights), path)
    for name, own in tensors.items():
        own.set_data(weights[name])


def shapes_of(tensors: Mapping[str, Parameter]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor by its name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_fit(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Raise InputError, naming the first three that differ, unless *path* holds each tensor in the net's shape."""
    wrong = [name for name, shape in wanted.items() if found.get(name) != shape]
    if wrong:
        first = "; ".join(f"{name} {found.get(name, 'missing')} in the file, {wanted[name]} here" for name in wrong[:3])
        raise InputError(
            f"{path} does not fit this net: {len(wrong)} of {len(wanted)} tensors differ, "
            f"{'first ' * (len(wrong) > 3)}{first}; check --net and --class_num"
        )
