"""Datasets of records of one size, a label and then the pixels: looked at quickly, or record by record."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Optional

from orchestrator.errors import DatasetError
from orchestrator.supervisor.progress import open_regular

_BLOCK_RECORDS = 512
_TELL_EVERY = 32_768  # records
_DIGEST_BYTES = 8  # two of ten million different pictures are taken for equal with a chance of 3 in a million
MOST_COMPARED = 2_000_000  # pictures a survey remembers for duplicates, some 100 bytes each

# What is found in the place of data, by its first bytes.
_IMPOSTORS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file it points to"),
    (b"<", "a web page, perhaps the error message of a server or proxy"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"\x80", "a Python pickle; the binary version of the dataset is needed"),
)


@dataclass(frozen=True)
class Part:
    """The files of one part of a dataset: those in *folder* that match *pattern*."""

    name: str  # training | test
    folder: str
    pattern: str


@dataclass(frozen=True)
class RecordFormat:
    """A label of one byte, then *pixel_bytes* of picture, again and again, in the files of each part."""

    title: str  # what people call it
    parts: "tuple[Part, ...]"
    pixel_bytes: int
    class_num: int
    known: "tuple[str, ...]" = ()  # names that lie beside the data and are no data

    @property
    def record_bytes(self) -> int:
        return 1 + self.pixel_bytes

    def check(self, folder: Path) -> None:
        """Look at names and sizes only. Raises DatasetError, or the OSError of a file that cannot be read."""
        for part in self.parts:
            files = self.files(folder, part)
            if not files:
                raise DatasetError(f"{folder / part.folder}: no {part.pattern} in it")
            for file in files:
                with open_regular(file) as opened:
                    problem = self.size_problem(opened)
                if problem is not None:
                    raise DatasetError(f"{file}: {problem}")

    def files(self, folder: Path, part: Part) -> "list[Path]":
        """Return the files of a part by name. Raises DatasetError where its folder is missing."""
        if not (folder / part.folder).is_dir():
            whole = " and ".join(f"{each.folder} ({each.name})" for each in self.parts)
            raise DatasetError(f"{folder}: no folder {part.folder} in it; {self.title} has {whole}")
        return sorted((folder / part.folder).glob(part.pattern))

    def size_problem(self, file: BinaryIO) -> Optional[str]:
        """Say why *file*, open at its beginning, cannot be whole records; None if it can. Moves its position."""
        size = os.fstat(file.fileno()).st_size
        if size and size % self.record_bytes == 0:
            return None
        problem = f"{size:,} bytes is not a whole number of {self.record_bytes:,}-byte records; "
        start = file.read(32).lstrip()
        for magic, what in _IMPOSTORS:
            if start.startswith(magic):
                return f"{problem}it is {what}"
        return f"{problem}the file is damaged or of another format, fetch it again"


@dataclass
class PartSurvey:
    """What a survey counted in one part."""

    name: str
    classes: "list[int]"  # pictures of each class
    files: int = 0
    pictures: int = 0  # with and without a label that is a class
    single_valued: int = 0  # pictures all of whose bytes are equal
    duplicates: int = 0  # pictures that are an earlier one of this part again


@dataclass(frozen=True)
class Damage:
    """Something that makes a file unfit for training."""

    file: str
    problem: str
    record: Optional[int] = None  # the first such record, counted from 0
    count: int = 1  # how many records


@dataclass
class Survey:
    """What reading every record of a dataset has shown."""

    parts: "list[PartSurvey]"
    damages: "list[Damage]" = field(default_factory=list)
    warnings: "list[str]" = field(default_factory=list)
    shared: int = 0  # pictures of a later part that an earlier one has too


def survey(
    layout: RecordFormat, folder: Path, class_num: int, tell: "Callable[[int, int], None]", most: int = MOST_COMPARED
) -> Survey:
    """Read every record below *folder*; labels must be below *class_num*.

    Memory does not grow with the files: only *most* pictures are remembered, to find duplicates among. *tell* hears
    now and then how many bytes are read, and of how many. Raises DatasetError where a folder of a part is missing.
    """
    found = Survey([PartSurvey(part.name, [0] * class_num) for part in layout.parts])
    paths = [layout.files(folder, part) for part in layout.parts]
    total_bytes = sum(path.stat().st_size for files in paths for path in files if path.is_file())
    read_bytes = 0
    seen: "dict[bytes, int]" = {}  # digest of a picture -> the part that had it first
    for index, (part, counts) in enumerate(zip(layout.parts, found.parts)):
        if not paths[index]:
            found.damages.append(Damage(str(folder / part.folder), f"no {part.pattern} in it"))
        for path in paths[index]:
            counts.files += 1
            wrong = _WrongLabels()
            try:
                with open_regular(path) as file:
                    problem = layout.size_problem(file)
                    if problem is not None:
                        found.damages.append(Damage(str(path), problem))
                    file.seek(0)
                    for number, record in enumerate(_records(file, layout.record_bytes)):
                        counts.pictures += 1
                        if record[0] < class_num:
                            counts.classes[record[0]] += 1
                        else:
                            wrong.note(number, record[0])
                        pixels = record[1:]
                        counts.single_valued += pixels == pixels[:1] * layout.pixel_bytes
                        digest = hashlib.blake2b(pixels, digest_size=_DIGEST_BYTES).digest()
                        first = seen.get(digest)
                        if first is None:
                            if len(seen) < most:
                                seen[digest] = index
                        elif first == index:
                            counts.duplicates += 1
                        else:
                            found.shared += 1
                        if counts.pictures % _TELL_EVERY == 0:
                            tell(read_bytes + number * layout.record_bytes, total_bytes)
                    read_bytes += file.tell()
            except OSError as exc:
                found.damages.append(Damage(str(path), f"cannot be read: {exc.strerror}"))
            if wrong.count:
                found.damages.append(
                    Damage(str(path), f"label {wrong.label}, of {class_num} classes", wrong.first, wrong.count)
                )
        found.warnings += _part_warnings(layout, folder, part, counts)
    if found.shared:
        found.warnings.append(f"{_pictures(found.shared)} of the test part that the training part has too")
    if len(seen) >= most:
        found.warnings.append(f"duplicates were looked for among the first {most:,} different pictures only")
    return found


@dataclass
class _WrongLabels:
    """The labels of one file that are no class: where the first is, and how many."""

    first: Optional[int] = None
    label: int = 0
    count: int = 0

    def note(self, number: int, label: int) -> None:
        if self.first is None:
            self.first, self.label = number, label
        self.count += 1


def _records(file: BinaryIO, record_bytes: int) -> "Iterator[bytes]":
    """Yield the whole records of a file; what is left over at its end is none."""
    while block := file.read(record_bytes * _BLOCK_RECORDS):
        for start in range(0, len(block) - record_bytes + 1, record_bytes):
            yield block[start : start + record_bytes]


def _part_warnings(layout: RecordFormat, folder: Path, part: Part, counts: PartSurvey) -> "Iterator[str]":
    if counts.single_valued:
        yield f"{part.name}: {_pictures(counts.single_valued)} of a single value, all black or the like"
    if counts.duplicates:
        yield f"{part.name}: {_pictures(counts.duplicates)} there already, earlier in the same part"
    empty = [str(label) for label, count in enumerate(counts.classes) if not count]
    if empty and counts.pictures:
        shown = ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else "")
        yield f"{part.name}: no picture of class {shown}"
    data = {path.name for path in layout.files(folder, part)}
    for name in sorted(os.listdir(folder / part.folder)):
        if name not in data and name not in layout.known:
            yield f"{folder / part.folder / name}: no data of this layout; nobody reads it"


def _pictures(count: int) -> str:
    return f"{count:,} picture{'s' * (count != 1)}"
