"""What all parsers of tools' answers share: lines without a terminal's colours, and numbers that are numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Optional

_LONGEST = 1024  # letters of a line: no tool writes longer ones, and nothing may be searched in them for ever
_COLOUR = re.compile(r"\x1b\[[0-9;]{0,20}[A-Za-z]")
_TYPED = str.maketrans({"：": ":", "│": "|", "｜": "|", "\0": None, "\ufeff": None})
_WHOLE = re.compile(r"[0-9]{1,12}")
_DECIMAL = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,12})?")

ABSENT = ("", "NA", "N/A", "-", "--")  # how tools write that they do not know


def lines_of(text: str) -> "Iterator[str]":
    """Yield the lines of *text* as a person reads them; one that is too long to be a tool's is left out."""
    for line in text.splitlines():
        if len(line) <= _LONGEST:
            yield _COLOUR.sub("", line).translate(_TYPED).rstrip()


def is_cut(line: str) -> bool:
    """Tell whether a line stands for others that somebody cut out: `...`."""
    return not line.strip(" \t|.…") and (".." in line or "…" in line)


def whole(text: Optional[str]) -> Optional[int]:
    """Return a number without sign or fraction; None for whatever else."""
    return int(text) if text is not None and _WHOLE.fullmatch(text) else None


def decimal(text: Optional[str]) -> Optional[float]:
    """Return a number; None for whatever else."""
    return float(text) if text is not None and _DECIMAL.fullmatch(text) else None


def leading(text: Optional[str]) -> Optional[float]:
    """Return the number that *text* begins with, as in `47 C`; None where it begins with something else."""
    match = _DECIMAL.match(text) if text is not None else None
    return float(match.group()) if match else None
