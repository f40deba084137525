"""Reads what a rank tells of its progress: the JSON lines it writes for us, or else its log.

The contract for any program: append one JSON object a line to the file named in `$ASCENDRUN_PROGRESS`:

    {"kind": "step", "epoch": 1, "epochs": 90, "step": 3, "steps": 195, "loss": 2.3, "lr": 0.01,
     "step_s": 0.18, "images_per_s": 1420.0}
    {"kind": "phase", "phase": "compile"}      {"kind": "epoch", "epoch": 1, "loss": 2.1, "epoch_s": 35.1}
    {"kind": "checkpoint", "path": "...", "epoch": 5, "step": 195}
    {"kind": "evaluation", "checkpoint": "...", "top_1_accuracy": 0.94, "top_5_accuracy": 0.99}

Every field but `kind` may be missing; unknown kinds and fields are passed on. A program that writes no
such file is read by patterns: regular expressions whose named groups are the fields of a step.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO, Dict, List, Mapping, Optional, Sequence, Tuple

# The lines of MindSpore's LossMonitor and TimeMonitor, in the spellings found in its model zoo.
MINDSPORE_PATTERNS = (
    r"epoch:\s*(?P<epoch>\d+),?\s+step:?\s*(?P<step>\d+).{0,60}?loss is\s*\[?(?P<loss>-?(?:\d[\d.eE+-]*|nan|inf))",
    r"per step time:?\s*(?P<step_ms>\d+(?:\.\d+)?)",
)
_BLOCK = 1 << 20  # bytes read in one go: a rank that writes more than this a tick is read over several
_MAX_LINE = 1 << 16  # bytes of a line that are looked at
_INTEGERS = ("epoch", "epochs", "step", "steps")
_NUMBERS = (*_INTEGERS, "loss", "lr", "step_s", "epoch_s", "images_per_s")
_TEXTS = ("phase", "path", "checkpoint")
_OURS = ("cpu_percent", "rss_bytes")  # what we measure is not a rank's to tell
_LARGEST = 1e300


def open_regular(path: Path) -> BinaryIO:
    """Open a file that we did not make. Raises OSError for anything but a regular file.

    A FIFO or a device in its place must not make us wait for it.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return os.fdopen(handle, "rb")


class LineTail:
    """Reads the whole lines that a growing file gained since the last call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._rest = b""
        self.more = False  # whether the last call left something to read

    def lines(self) -> List[bytes]:
        """Return the new whole lines, at most about a megabyte; none where there is no file (yet)."""
        try:
            with open_regular(self.path) as file:
                if os.fstat(file.fileno()).st_size < self._offset:  # cut short and begun again
                    self._offset, self._rest = 0, b""
                file.seek(self._offset)
                block = file.read(_BLOCK)
        except OSError:
            return []
        self._offset += len(block)
        self.more = len(block) == _BLOCK
        *lines, self._rest = (self._rest + block).split(b"\n")
        self._rest = self._rest[:_MAX_LINE]  # a line without end must not fill the memory
        return lines

    def skip_to_last(self, count: int) -> List[bytes]:
        """Return the last *count* whole lines there are now, and go on behind them."""
        try:
            with open_regular(self.path) as file:
                start = max(0, os.fstat(file.fileno()).st_size - _BLOCK)
                file.seek(start)
                block = file.read(_BLOCK)
        except OSError:
            return []
        if start:
            cut = block.find(b"\n") + 1  # the line that the block begins in the middle of
            start, block = start + cut, block[cut:]
        end = block.rfind(b"\n") + 1
        self._offset, self._rest = start + end, b""
        return block[:end].split(b"\n")[:-1][-count:]

    def rest(self) -> bytes:
        """Return the line that is not whole yet."""
        return self._rest


class RankProgress:
    """The newest step of one rank, and the other facts it told since the last call."""

    def __init__(self, progress: Path, log: Path, patterns: Sequence[bytes]) -> None:
        self._told = LineTail(progress)
        self._log = LineTail(log)
        self._patterns = patterns
        self._tells = False  # has written a progress line: its log need not be read
        self.step: Dict[str, Any] = {}
        self.phase: Optional[str] = None  # what it says it does; None: it makes steps, or has said nothing yet
        self.nan: Optional[Dict[str, Any]] = None  # the first step whose loss is no number

    @property
    def more(self) -> bool:
        """Whether the last call left something to read."""
        return self._told.more or self._log.more

    def read(self) -> Tuple[bool, List[Dict[str, Any]]]:
        """Return whether `step` changed, and the facts other than steps, oldest first."""
        facts: List[Dict[str, Any]] = []
        changed = False
        for line in self._told.lines():
            fact = _parse(line)
            if fact is None:
                continue
            self._tells = True
            if fact["kind"] == "step":
                self.step = {key: value for key, value in fact.items() if key != "kind"}
                self.phase = None
                self._note_nan(self.step)
                changed = True
            else:
                if fact["kind"] == "phase":
                    self.phase = fact.get("phase")
                facts.append(fact)
        if not self._tells and self._patterns:
            changed = self._read_log() or changed
        return changed, facts

    def _read_log(self) -> bool:
        found: Dict[str, Any] = {}
        lines = self._log.lines()
        searches = [re.compile(pattern).search for pattern in self._patterns] if lines else []  # from re's cache
        for line in lines:
            for search in searches:
                match = search(line[:_MAX_LINE])
                if match:
                    found.update(_fields(match))
                    self._note_nan({**self.step, **found})
        if found:
            self.step = {**self.step, **found}
        return bool(found)

    def _note_nan(self, step: Mapping[str, Any]) -> None:
        """Keep *step* if it is the first whose loss is no number; of one that was skipped the loss does not matter."""
        if self.nan is None and "loss" in step and step["loss"] is None and not step.get("skipped"):
            self.nan = {key: step.get(key) for key in ("epoch", "step")}


def _parse(line: bytes) -> Optional[Dict[str, Any]]:
    try:
        fact = json.loads(line[:_MAX_LINE])
    except (ValueError, RecursionError):
        return None
    if not isinstance(fact, dict) or not isinstance(fact.get("kind"), str):
        return None
    return {key: _clean(key, value) for key, value in fact.items() if key not in _OURS}


def _clean(key: str, value: Any) -> Any:
    """Return None for a number that is none: what we pass on is arithmetic for others, and strict JSON."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value if -_LARGEST < value < _LARGEST else None  # NaN fails every comparison
    if key in _NUMBERS or (key in _TEXTS and not isinstance(value, str)):
        return None
    return value


def _fields(match: "re.Match[bytes]") -> Dict[str, Any]:
    fields: Dict[str, Any] = {}
    for name, text in match.groupdict().items():
        if text is None:
            continue
        try:
            number = float(text)
        except ValueError:
            continue
        if name == "step_ms":
            fields["step_s"] = number / 1000
        elif not math.isfinite(number):
            fields[name] = None  # JSON has no NaN; None says "told, and no number"
        else:
            fields[name] = int(number) if name in _INTEGERS else number
    return fields


def last_lines(path: Path, count: int = 20, most_bytes: int = 8192) -> List[str]:
    """Return the last lines of a log (fewer where they are long); an absent log has none."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - most_bytes))
            lines = file.read(most_bytes).split(b"\n")
    except OSError:
        return []
    if not lines[-1]:
        lines.pop()
    if size > most_bytes and len(lines) > 1:
        lines = lines[1:]  # its beginning was cut off
    return [line.decode("utf-8", "replace") for line in lines[-count:]]


# What tells of an error, in the words of Python, of MindSpore's and CANN's logs, and of C++.
_TELLING = re.compile(
    rb"^(?:[\w.]+\.)?[A-Z]\w*(?:Error|Exception|Interrupt|Exit)\b|^\[(?:ERROR|CRITICAL)\]|^Fatal |terminate called"
    rb"|Launch kernel failed|Callback on exception|\bEI?\d{4}\b|No space left on device|out of memory|already in use"
)


def telling_lines(path: Path, count: int = 12, most_bytes: int = 1 << 18) -> List[str]:
    """Return the last lines of a log that tell of an error, however many others follow them; cut to 400 characters."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most_bytes))
            lines = file.read(most_bytes).split(b"\n")
    except OSError:
        return []
    return [line[:400].decode("utf-8", "replace") for line in lines if _TELLING.search(line[:_MAX_LINE])][-count:]
