"""Bring a published dataset into a folder: download or take a local archive, prove it, lay it out.

```
DIR/.fetch/          while it goes on: lock, the beginning of the archive, what is unpacked; gone when it is done
DIR/SHA256SUMS       which files came from which archive, as `sha256sum -c` reads it
DIR/...              the files of the layout; each appears whole or not at all
```
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from orchestrator.datasets import Layout, Source
from orchestrator.download import Transfer, Wanted, checked_url, download
from orchestrator.errors import DatasetError, HostError, written_to
from orchestrator.supervisor.progress import open_regular
from orchestrator.supervisor.rundir import write_atomically
from orchestrator.unpack import unpack

SUMS = "SHA256SUMS"
_WORK = ".fetch"
_UNPACKED = "unpacked"
_BLOCK = 1 << 20
_HEAD = "# what `ascendrun data fetch` unpacked from the archive with SHA-256 "
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True)
class FetchRequest:
    """What to fetch, but for what the layout says already."""

    url: Optional[str] = None  # a mirror
    sha256: Optional[str] = None  # of another archive than the published one
    archive: Optional[Path] = None  # take this file, download nothing
    timeout_s: float = 30.0  # without a single byte


@dataclass(frozen=True)
class Fetched:
    """What a fetch has left in the folder."""

    files: "dict[str, str]"  # path below the folder -> SHA-256
    was_there: bool  # all of it, before


def fetch(
    layout: Layout,
    folder: Path,
    request: FetchRequest,
    tell: "Callable[[Transfer], None]",
    say: "Callable[[str], None]",
) -> Fetched:
    """Lay the layout's published dataset out below *folder*. Nothing is touched where it is there and whole already.

    Raises DatasetError for what the user can change: an address, a checksum, an archive that is another one, files in
    the folder that come from elsewhere; HostError for a network, a server or a full disk.
    """
    source = layout.source
    if source is None:
        raise DatasetError(f"a dataset of layout {layout.name} is not published at one address; bring it yourself")
    if request.url is not None:
        checked_url(request.url)
    sha256 = _checked_sha256(request.sha256, source)
    if folder.exists() and not folder.is_dir():
        raise DatasetError(f"{folder}: not a folder")
    there = _whole(folder, source, sha256)
    if there is not None:
        return Fetched(there, was_there=True)
    if request.archive is not None:
        _require_sum(request.archive, sha256)
    with _alone(folder / _WORK, say):
        there = _whole(folder, source, sha256)  # another one may have done it while we waited
        if there is not None:
            return Fetched(there, was_there=True)
        _refuse_strangers(folder, layout, source)
        archive = request.archive or _downloaded(source, sha256, request, folder / _WORK, tell, say)
        return Fetched(_lay_out(archive, source, sha256, folder, say), was_there=False)


def _checked_sha256(given: Optional[str], source: Source) -> str:
    if given is None:
        return source.sha256
    if not re.fullmatch(r"[0-9a-fA-F]{64}", given):
        raise DatasetError("--sha256 takes 64 hexadecimal digits, as sha256sum prints them")
    return given.lower()


def _downloaded(
    source: Source,
    sha256: str,
    request: FetchRequest,
    work: Path,
    tell: "Callable[[Transfer], None]",
    say: "Callable[[str], None]",
) -> Path:
    """Return the downloaded archive, proven."""
    part = work / f"{sha256[:16]}.part"
    published = sha256 == source.sha256
    wanted = Wanted(
        url=request.url or source.url,
        size_bytes=source.size_bytes if published else None,
        room_bytes=sum(member.most_bytes for member in source.members.values()) if published else 0,
        timeout_s=request.timeout_s,
    )
    shown = checked_url(wanted.url)
    for beginning in (True, False):
        if beginning and part.exists():
            say(f"going on with {shown}, {part.stat().st_size:,} bytes are here already")
        else:
            say(f"downloading {shown}")
        resumed = download(wanted, part, tell)
        got = _sha256_of(part)
        if got == sha256:
            return part
        part.unlink()
        if not resumed:
            break
        say("its checksum is wrong: the beginning was damaged or of another file; beginning anew")
    raise HostError(
        f"{shown}: what it sends has the SHA-256 {got}, not {sha256}; it is another file or damaged on its way, "
        "and nothing of it was unpacked"
    )


def _require_sum(archive: Path, sha256: str) -> None:
    got = _sha256_of(archive)
    if got != sha256:
        raise DatasetError(
            f"{archive}: its SHA-256 is {got}, not {sha256}; it is cut short, damaged or another file "
            "(--sha256 says that another one is meant)"
        )


def _lay_out(
    archive: Path, source: Source, sha256: str, folder: Path, say: "Callable[[str], None]"
) -> "dict[str, str]":
    """Unpack beside the goal, then put each file in its place; the record comes first, so that we know our own."""
    say("unpacking")
    unpacked = folder / _WORK / _UNPACKED
    with written_to(folder):
        shutil.rmtree(unpacked, ignore_errors=True)  # of one that was killed
        unpacked.mkdir()
    digests = unpack(archive, source.members, unpacked)
    with written_to(folder):
        lines = "".join(f"{digest}  {path}\n" for path, digest in digests.items())
        write_atomically(folder / SUMS, f"{_HEAD}{sha256}\n{lines}")
        _sync(folder / SUMS)
        for path in digests:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(unpacked / path, folder / path)
        for parent in {folder, *((folder / path).parent for path in digests)}:
            _sync(parent)
    for part in (folder / _WORK).glob("*.part"):
        part.unlink()
    return digests


def _whole(folder: Path, source: Source, sha256: str) -> "Optional[dict[str, str]]":
    """Return the files below *folder* and their sums if all are as they were unpacked; None otherwise.

    Raises DatasetError where another archive was unpacked there.
    """
    recorded = _record(folder)
    if recorded is None:
        return None
    origin, digests = recorded
    if origin != sha256:
        raise DatasetError(f"{folder} holds what came from another archive (SHA-256 {origin}); choose another folder")
    if not digests.keys() >= {member.path for member in source.members.values()}:
        return None
    try:
        return digests if all(_sha256_of(folder / path) == digest for path, digest in digests.items()) else None
    except DatasetError:
        return None  # one is missing or unreadable


def _record(folder: Path) -> "Optional[tuple[str, dict[str, str]]]":
    """Return the sum of the archive, and those of the files, as SHA256SUMS tells; None where it is not ours."""
    try:
        with open_regular(folder / SUMS) as file:
            head, *lines = file.read(1 << 16).decode("utf-8", "replace").splitlines() or [""]
    except OSError:
        return None
    if not head.startswith(_HEAD):
        return None
    entries = (line.partition("  ") for line in lines)
    return head[len(_HEAD) :], {path: digest for digest, _, path in entries}


def _refuse_strangers(folder: Path, layout: Layout, source: Source) -> None:
    """Raise DatasetError for data in our way that we did not bring: it may be somebody's own."""
    recorded = _record(folder)
    ours: "Mapping[str, str]" = recorded[1] if recorded is not None else {}
    there = [member.path for member in source.members.values() if (folder / member.path).exists()]
    if recorded is None and (folder / SUMS).exists():
        there.append(SUMS)
    for part in layout.format.parts:
        there += [str(path.relative_to(folder)) for path in (folder / part.folder).glob(part.pattern)]
    for path in sorted(set(there) - set(ours)):
        raise DatasetError(
            f"{folder / path} is there already and did not come from this archive; choose another folder "
            f"(`ascendrun data check {folder}` tells whether what is there is whole)"
        )


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as exc:
        raise DatasetError(f"{path}: {exc.strerror}") from exc
    return digest.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _alone(work: Path, say: "Callable[[str], None]") -> "Iterator[None]":
    """Hold the folder of an unfinished fetch; wait for another one that holds it.

    On a file system without locks nobody waits; a download that two write to has a wrong checksum then, no more.
    """
    made = not work.parent.exists()
    with written_to(work):
        handle = _locked(work / "lock", say)
    try:
        yield
    finally:
        shutil.rmtree(work / _UNPACKED, ignore_errors=True)
        with suppress(OSError):  # nothing came, or all is done: then nothing of ours stays
            if not any(part.stat().st_size for part in work.glob("*.part")):
                shutil.rmtree(work)
            if made:
                work.parent.rmdir()
        os.close(handle)


def _locked(path: Path, say: "Callable[[str], None]") -> int:
    """Return the open, locked file of this name, not one that its last owner has removed meanwhile."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            continue  # its owner removed the folder just now
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another fetch is at work in this folder; waiting for it (Ctrl-C leaves it alone)")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as exc:
            if exc.errno not in _NO_LOCKS:
                os.close(handle)
                raise
        try:
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)
