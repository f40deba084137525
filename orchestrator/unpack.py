"""Take the files that are wanted out of a tar archive, trusting nothing that it says of itself."""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from orchestrator.datasets import Member
from orchestrator.errors import DatasetError, written_to

_BLOCK = 1 << 20
_MOST_BESIDES = 32 << 20  # bytes that an archive may hold besides what is wanted: headers, a readme
_MOST_MEMBERS = 1000


def unpack(archive: Path, members: "Mapping[str, Member]", folder: Path) -> "dict[str, str]":
    """Write the *members* of a gzip-compressed tar below the empty *folder*; return the SHA-256 of each by its path.

    Where a file goes, `Member.path` says, never the archive. Raises DatasetError for an archive that is damaged or
    hostile: links, devices, names that lead elsewhere, members missing, twice there or of a size they cannot have, or
    far more data than wanted. HostError for a full disk.
    """
    digests: "dict[str, str]" = {}
    most = sum(member.most_bytes for member in members.values()) + _MOST_BESIDES
    try:
        with open(archive, "rb") as raw, gzip.GzipFile(fileobj=raw) as unzipped:
            limited = _Limited(unzipped, most)
            with tarfile.open(fileobj=limited, mode="r|") as tar:  # type: ignore[call-overload]
                for number, entry in enumerate(tar):
                    name = entry.name[2:] if entry.name.startswith("./") else entry.name
                    problem = _problem(entry, name, members.get(name))
                    if number >= _MOST_MEMBERS:
                        problem = f"more than {_MOST_MEMBERS} members"
                    elif name in members and members[name].path in digests:
                        problem = f"{name!r} is there twice"
                    if problem is not None:
                        raise DatasetError(f"{archive}: not unpacked: {problem}")
                    if name in members:
                        path = members[name].path
                        data = tar.extractfile(entry)
                        assert data is not None, "_problem lets only regular files pass"
                        digests[path] = _copy(data, folder / path)
            while limited.read(_BLOCK):
                pass  # to the end, where gzip's own checksum is
    except OSError as exc:
        raise DatasetError(f"{archive}: {exc.strerror}") from exc
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as exc:
        raise DatasetError(f"{archive}: no gzip-compressed tar archive, or a damaged one ({exc})") from exc
    missing = [name for name, member in members.items() if member.path not in digests]
    if missing:
        raise DatasetError(f"{archive}: lacks {', '.join(missing)}; it is another archive")
    return digests


def _problem(entry: tarfile.TarInfo, name: str, member: "Member | None") -> "str | None":
    """Say why this entry forbids to unpack the archive."""
    if entry.name.startswith("/") or ".." in entry.name.split("/"):
        return f"{entry.name!r} would lead out of the folder"
    if not (entry.isdir() or entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE)) or entry.issparse():
        return f"{entry.name!r} is no plain file, but a link, a device or the like"
    if member is None:
        return None
    if entry.isdir():
        return f"{name!r} is a folder"
    if not 0 < entry.size <= member.most_bytes or entry.size % member.unit_bytes:
        return f"{name!r} has {entry.size:,} bytes, which it cannot have"
    return None


def _copy(data: "IO[bytes]", target: Path) -> str:
    digest = hashlib.sha256()
    with written_to(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(handle, "wb") as file:
            while block := data.read(_BLOCK):
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    return digest.hexdigest()


class _Limited:
    """Reads a stream up to a limit: a small archive can hold terabytes of zeros."""

    def __init__(self, stream: gzip.GzipFile, most_bytes: int) -> None:
        self._stream = stream
        self._left = most_bytes

    def read(self, count: int) -> bytes:
        try:
            block = self._stream.read(count)
        except (OSError, EOFError, zlib.error) as exc:
            raise tarfile.ReadError(str(exc)) from exc
        self._left -= len(block)
        if self._left < 0:
            raise tarfile.ReadError("it unpacks to far more than what is wanted")
        return block
