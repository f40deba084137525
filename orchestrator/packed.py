"""What a file holds that may be packed: a text, plain or compressed, or the files of a tar or zip archive.

All is read as a stream and nothing is written: no name leads anywhere, memory is a few blocks, and what unpacks to far
more than anybody logs is left at MOST_BYTES. What a file is, its first bytes say, whatever it is called.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, cast

from orchestrator.supervisor.progress import open_regular

MOST_BYTES = 4 << 30  # that are unpacked of one file
_MOST_MEMBERS = 100_000
_BLOCK = 1 << 20
_MOST_HEADER = 1 << 20  # bytes of a long name, or of the settings of a tar's member
_MOST_DIRECTORY = 32 << 20  # bytes of a zip's list of members, which is held in memory
_COMPRESSED: "dict[bytes, Callable[..., Any]]" = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_LONG_NAME, _SETTINGS = (tarfile.GNUTYPE_LONGNAME,), (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
# What reading a damaged or shrinking file raises.
DAMAGED = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    OSError,
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,
    MemoryError,
)

Read = Callable[[int], bytes]  # gives up to so many bytes; none at the end


@dataclass(frozen=True)
class Piece:
    """One text of a file; to be read before the next is asked for."""

    name: str  # of an archive's member; "" for what is no archive
    size_bytes: Optional[int]  # None: known when it has been read
    read: Read


def pieces(path: Path) -> "Iterator[Piece]":
    """Yield what the file at *path* holds. Raises one of DAMAGED, also from `read`, where no more can be had."""
    with open_regular(path) as file:
        head = file.read(8)
        file.seek(0)
        if head.startswith(b"PK\x03\x04"):
            yield from _of_zip(file)
            return
        packed = _opener(head)
        stream: Any = file if packed is None else packed(file, "rb")
        # Of a compressed file that breaks off `read` would give nothing.
        read = stream.read1 if packed is None else _within(stream.read1)
        first = _exactly(read, tarfile.BLOCKSIZE)
        if _entry(first) is None:
            yield Piece("", None if packed else os.fstat(file.fileno()).st_size, _joined(first, read))
        else:
            yield from _of_tar(_joined(first, read))


def is_archive(path: Path) -> bool:
    """Tell whether the name is one of an archive."""
    return path.name.lower().endswith((".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz"))


def _opener(head: bytes) -> "Optional[Callable[..., Any]]":
    return next((opener for magic, opener in _COMPRESSED.items() if head.startswith(magic)), None)


def _of_tar(read: Read) -> "Iterator[Piece]":
    """Yield the plain files of a tar; headers are read here because the library takes any length for a name's."""
    long_name: Optional[str] = None
    for _ in range(_MOST_MEMBERS):
        header = _exactly(read, tarfile.BLOCKSIZE)
        entry = _entry(header)
        if entry is None:
            if header.strip(b"\0"):
                raise tarfile.ReadError("the archive is damaged")
            return
        left = _Left(read, entry.size)
        if entry.type in _LONG_NAME:
            long_name = _exactly(left.read, _MOST_HEADER).rstrip(b"\0").decode("utf-8", "replace")
        elif entry.type in _SETTINGS:
            long_name = _path_of(_exactly(left.read, _MOST_HEADER)) or long_name
        else:
            if entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
                yield _member(long_name or entry.name, entry.size, left.read)
            long_name = None
        while left.read(_BLOCK):
            pass
        _exactly(read, -entry.size % tarfile.BLOCKSIZE)
    raise tarfile.ReadError(f"more than {_MOST_MEMBERS:,} files")


def _entry(header: bytes) -> Optional[tarfile.TarInfo]:
    """Return what a tar's header says of a member; None for what is none."""
    try:
        entry = tarfile.TarInfo.frombuf(header, "utf-8", "replace")
    except (tarfile.TarError, ValueError, OverflowError):
        return None
    return entry if entry.size >= 0 else None


def _path_of(settings: bytes) -> Optional[str]:
    """Return the name that the settings before a tar's member give it."""
    for line in settings.split(b"\n"):
        key, _, value = line.partition(b"=")
        if key.endswith(b" path"):
            return value.decode("utf-8", "replace")
    return None


def _of_zip(file: Any) -> "Iterator[Piece]":
    """Yield the plain files of a zip. Raises BadZipFile for one whose list of members is too long to hold."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 65_557))  # the longest comment, and the record before it
    tail = file.read(65_557)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22 or struct.unpack_from("<L", tail, at + 12)[0] > _MOST_DIRECTORY:
        raise zipfile.BadZipFile("the archive is damaged or has too many files")
    budget = _Budget()
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist()[:_MOST_MEMBERS]:
                if entry.flag_bits & 1:
                    raise zipfile.BadZipFile("the archive is encrypted")
                if not entry.is_dir():
                    with cast(zipfile.ZipExtFile, archive.open(entry)) as member:
                        yield _member(entry.filename, entry.file_size, _within(member.read1, budget))
    except (RuntimeError, struct.error, ValueError, OverflowError, LookupError) as exc:  # of a damaged list
        raise zipfile.BadZipFile(str(exc)) from exc


def _member(name: str, size_bytes: int, read: Read) -> Piece:
    """Return a file of an archive; one that is compressed, unpacked."""
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    head = _exactly(read, 8)
    opener = _opener(head)
    if opener is None:
        return Piece(name, size_bytes, _joined(head, read))
    return Piece(name, None, _within(opener(_File(_joined(head, read)), "rb").read1))


# ── streams ────────────────────────────────────────────────────────────────────────────────────────────────


class _Budget:
    """What may still be unpacked."""

    def __init__(self) -> None:
        self.left = MOST_BYTES


class _Left:
    """A stream up to the end of a member."""

    def __init__(self, read: Read, size_bytes: int) -> None:
        self._read = read
        self._left = size_bytes

    def read(self, count: int) -> bytes:
        data = self._read(min(count, self._left)) if self._left else b""
        if self._left and count and not data:
            raise EOFError("the archive breaks off")
        self._left -= len(data)
        return data


class _File:
    """As much of a file as the library's decompressors need."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def read(self, count: int = -1) -> bytes:
        return self._read(count if count >= 0 else _BLOCK)


def _within(read: Read, budget: Optional[_Budget] = None) -> Read:
    """Return *read* with an end to what it unpacks."""
    budget = budget or _Budget()

    def bounded(count: int) -> bytes:
        data = read(count)
        budget.left -= len(data)
        if budget.left < 0:
            raise OSError(f"more than {MOST_BYTES >> 30} GiB unpacked")
        return data

    return bounded


def _joined(head: bytes, read: Read) -> Read:
    """Return a stream that begins with *head*."""
    rest = bytearray(head)

    def joined(count: int) -> bytes:
        if rest and count:
            data = bytes(rest[:count])
            del rest[:count]
            return data
        return read(count)

    return joined


def _exactly(read: Read, count: int) -> bytes:
    """Return the next *count* bytes, or what there is."""
    data = b""
    while len(data) < count and (block := read(count - len(data))):
        data += block
    return data
