"""Looks at a dataset before a run starts, so that eight ranks do not all find out a minute later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from orchestrator.errors import DatasetError, nearest

_CIFAR10_RECORD = 1 + 3 * 32 * 32  # bytes: a label, then a picture. Source: the CIFAR-10 page, binary version


def check_dataset(layout: str, folder: Path) -> None:
    """Raise DatasetError unless *folder* holds a usable dataset of that layout.

    Looks at names and sizes only: reading every picture is the work of `ascendrun data check`.
    """
    if layout not in LAYOUTS:
        raise DatasetError(f"the job asks for a dataset of layout '{layout}'{nearest(layout, LAYOUTS)}")
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: {'not a folder' if folder.exists() else 'no such folder'} "
            "(--dataset names the folder that holds the dataset)"
        )
    try:
        LAYOUTS[layout](folder)
    except OSError as exc:
        raise DatasetError(f"{exc.filename}: {exc.strerror}") from exc


def _check_cifar10(folder: Path) -> None:
    for name, pattern in (("cifar-10-batches-bin", "data_batch*.bin"), ("cifar-10-verify-bin", "*.bin")):
        part = folder / name
        if not part.is_dir():
            raise DatasetError(
                f"{folder}: no folder {name} in it; CIFAR-10 in its binary layout has "
                "cifar-10-batches-bin (training) and cifar-10-verify-bin (test)"
            )
        files = sorted(part.glob(pattern))
        if not files:
            raise DatasetError(f"{part}: no {pattern} in it")
        for file in files:
            size = file.stat().st_size
            if size == 0 or size % _CIFAR10_RECORD:
                raise DatasetError(
                    f"{file}: {size:,} bytes is not a whole number of {_CIFAR10_RECORD:,}-byte records; "
                    "the file is damaged or of another format, fetch it again"
                )
            with file.open("rb") as opened:  # readable by us
                opened.read(1)


LAYOUTS: "dict[str, Callable[[Path], None]]" = {"cifar10-binary": _check_cifar10}
