"""The dataset layouts that ascendrun knows: what each looks like, where it comes from, what makes a small one.

A look before a run starts spares eight ranks finding out a minute later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from orchestrator.errors import DatasetError, nearest
from orchestrator.records import Part, RecordFormat, Survey, survey


@dataclass(frozen=True)
class Member:
    """One file of an archive that is wanted: where it goes, and how large it can be."""

    path: str  # below the dataset's folder
    most_bytes: int
    unit_bytes: int = 1  # the size is a whole number of these


@dataclass(frozen=True)
class Source:
    """Where a dataset is published, as one gzip-compressed tar archive."""

    url: str
    size_bytes: int
    sha256: str
    members: "Mapping[str, Member]"  # by name in the archive


@dataclass(frozen=True)
class Layout:
    """All that there is to know of one dataset layout."""

    name: str
    format: RecordFormat
    source: Optional[Source] = None
    sampler: Optional[str] = None  # run as `python -m SAMPLER DIR --train N --test M --seed S`


# A label, then 32 x 32 pixels of red, green and blue. Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary
# version": six files of 10,000 records. The test part lies in a folder of its own, where MindSpore's models have it.
_CIFAR10 = RecordFormat(
    title="CIFAR-10 in its binary layout",
    parts=(
        Part("training", "cifar-10-batches-bin", "data_batch_*.bin"),
        Part("test", "cifar-10-verify-bin", "*.bin"),
    ),
    pixel_bytes=3 * 32 * 32,
    class_num=10,
    known=("batches.meta.txt", "readme.html"),
)
_BATCH = {"most_bytes": 10_000 * _CIFAR10.record_bytes, "unit_bytes": _CIFAR10.record_bytes}
_CIFAR10_SOURCE = Source(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    # Source of both: tensorflow/datasets, tensorflow_datasets/url_checksums/cifar10.txt. The page itself gives
    # "162 MB" and the MD5 c32a1d4ab5d03f1284b67883e8d87530.
    size_bytes=170_052_171,
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    members={
        **{
            f"cifar-10-batches-bin/data_batch_{number}.bin": Member(
                f"cifar-10-batches-bin/data_batch_{number}.bin", **_BATCH
            )
            for number in range(1, 6)
        },
        "cifar-10-batches-bin/test_batch.bin": Member("cifar-10-verify-bin/test_batch.bin", **_BATCH),
        "cifar-10-batches-bin/batches.meta.txt": Member("cifar-10-batches-bin/batches.meta.txt", most_bytes=4096),
    },
)

LAYOUTS = {
    layout.name: layout
    for layout in (Layout("cifar10-binary", _CIFAR10, source=_CIFAR10_SOURCE, sampler="sknet.sample"),)
}


def layout_of(name: str, asked_by: str = "you ask for") -> Layout:
    """Return the layout of that name. Raises DatasetError, with the nearest name there is."""
    if name not in LAYOUTS:
        raise DatasetError(f"{asked_by} a dataset of layout '{name}'{nearest(name, LAYOUTS)}")
    return LAYOUTS[name]


def check_dataset(layout: str, folder: Path) -> None:
    """Raise DatasetError unless *folder* holds a usable dataset of that layout.

    Looks at names and sizes only: reading every picture is the work of `ascendrun data check`.
    """
    known = layout_of(layout, "the job asks for")
    require_folder(folder, "--dataset names the folder that holds the dataset; `ascendrun data` fetches or makes one")
    try:
        known.format.check(folder)
    except OSError as exc:
        raise DatasetError(f"{exc.filename}: {exc.strerror}") from exc


def require_folder(folder: Path, advice: str) -> None:
    """Raise DatasetError unless *folder* is a folder."""
    if not folder.is_dir():
        raise DatasetError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'} ({advice})")


def survey_dataset(
    layout: Layout, folder: Path, class_num: Optional[int], tell: "Callable[[int, int], None]"
) -> Survey:
    """Read every record of the dataset in *folder*. Raises DatasetError where there is none."""
    require_folder(folder, "DIR is the folder that holds the dataset")
    try:
        return survey(layout.format, folder, class_num or layout.format.class_num, tell)
    except OSError as exc:
        raise DatasetError(f"{exc.filename}: {exc.strerror}") from exc
