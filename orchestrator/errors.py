"""The error tree. A job that fails is no error of ours: that is a RunState.

AscendrunError            1  ascendrun could not do its work
├── UserError             2  what the user gave cannot be used
│   ├── SpecError            a job file, `--set` or `--devices`
│   ├── DatasetError         the dataset is missing or damaged
│   ├── RunNotFoundError     no run of that name or path
│   └── RunDirError          the run folder cannot be made or written
│       └── NameTakenError      another run goes by that name
└── HostError             3  a host (this one too) did not do its part
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class AscendrunError(Exception):
    """Root of all errors that `ascendrun` reports in one line instead of a traceback."""

    exit_code = 1


class UserError(AscendrunError):
    """The input can not be used; nothing was started."""

    exit_code = 2


class SpecError(UserError):
    """A job file, a `--set` or a `--devices` that does not say something we can do."""


class DatasetError(UserError):
    """The dataset is missing, unreadable or damaged."""


class RunNotFoundError(UserError):
    """No run goes by that name or lies at that path."""


class RunDirError(UserError):
    """The folder of a run cannot be made, written to, or belongs to another run."""


class NameTakenError(RunDirError):
    """A run of that name exists already."""


class HostError(AscendrunError):
    """A host could not start or answer."""

    exit_code = 3


@contextmanager
def written_to(place: object) -> "Iterator[None]":
    """Raise an OSError of writing a dataset to *place* as HostError for a full disk, else as DatasetError."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HostError(f"{place}: the disk is full; make room and run the same command again") from exc
        raise DatasetError(f"cannot write {exc.filename or place}: {exc.strerror}") from exc


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known word most like *word*, or what is known if none is."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""
