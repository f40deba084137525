"""Who wrote a line and when: rank, process and time, from the line itself or from the path of its file.

Sources: CANN log reference (plog), HCCL user guide, torch_npu error codes, MindSpore msrun, torchrun --log-dir.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from typing import Optional

_RANK_IN_LINE = re.compile(
    r"^\s*\[?(?:default|rank|Rank) ?(\d{1,6})\]?:"  # torchrun, `ascendrun logs`
    r"|^\[rank (\d{1,6})\]"
    r"|RankID:(\d{1,6})\b"
    r"|_world_group\]\[(\d{1,6})\]"
    r"|rankNum\[\d+\], ?rank\[(\d{1,6})\]"
    r"|ranks\[\d+\], ?rank\[(\d{1,6})\]"
    r"|localUserrank\[(\d{1,6})\]"
    r"|rankId\[(\d{1,6})\]"
    r"|localRank:(\d{1,6})\b"
    r"|\[PG \S+ (?:\S+ )?Rank (\d{1,6})\]"
    r"|\[Rank (\d{1,6})\]"
)
_PID_IN_LINE = re.compile(r"^\[[A-Z]+\] ?\w+\((\d{1,9})[,:]|\(PID:(\d{1,9}),|\[PID: ?(\d{1,9})\]")
_RANK_IN_PATH = re.compile(
    r"(?:^|[/_.-])(?:proc-)?rank[_-]?(\d{1,6})(?=$|[/_.-])"
    r"|(?:^|/)(?:train|eval)_parallel_?(\d{1,6})(?=$|/)"
    r"|(?:^|/)attempt_\d+/(\d{1,6})/(?:stdout|stderr)"
    r"|(?:^|[/_.-])worker[_-](\d{1,6})\.(?:log|txt|out|err)"
    r"|(?:^|/)(?:log|train|stdout|stderr|output)[_-]?(\d{1,6})\.(?:log|txt|out|err)"
    r"|(?:^|/)(0|[1-9]\d{0,5})\.(?:log|txt|out|err)"
)
_PID_IN_PATH = re.compile(r"(?:^|/)(?:plog|atrace|device)[-_](\d{1,9})_\d{10,}")
_HOST_IN_PATH = re.compile(r"(?:^|/)((?:worker|node|host|server|master)[-_]?[\w.-]*|\d{1,3}(?:\.\d{1,3}){3})/", re.I)
_DEVICE_IN_PATH = re.compile(r"(?:^|/)device[-_](\d{1,4})(?=$|[/.])")

_TIME = re.compile(
    r"(\d{4})[-/](\d{2})[-/](\d{2})[-T ](\d{2}):(\d{2}):(\d{2})(?:[.,](\d{1,6})(?:\.(\d{3}))?)?"  # most loggers
    r"|\[?[EWIF](\d{1,2})(\d{2}) (\d{2}):(\d{2}):(\d{2})\.(\d{1,9})"  # glog, PyTorch: no year
)
_NO_YEAR = 1972  # a leap year: only differences within one log count
_QUIET = re.compile(
    r"^(?:\[\w*rank ?\d+\]:? ?)?\[(?:INFO|DEBUG|EVENT|TRACE|WARNING|WARN|W|I|info|debug|warning|warn)\b"
    r"|^(?:\[\w*rank ?\d+\]:? ?)?(?:INFO|DEBUG|WARNING|WARN)\b"
    r"|^.{0,60}(?:\s|\||\[|-)(?:INFO|DEBUG|WARNING)(?:\s|\||\]|:|-)"
    r"|^(?:\[\w*rank ?\d+\]:? ?)?\[?[WI]\d{3,4} \d{2}:\d{2}:\d{2}"
    r"|^\S+:\d+: \w*Warning: "
)


@dataclass(frozen=True)
class Place:
    """Who wrote a log, as far as its path tells."""

    rank: Optional[int] = None
    device: Optional[int] = None
    pid: Optional[int] = None
    host: Optional[str] = None


def place_of_path(path: str) -> Place:
    """Return what *path* tells of rank, device, process and host: `rank_3/`, `device-7/`, `plog-412_2025...log`."""
    ranks = _numbers(_RANK_IN_PATH.findall(path))
    devices = _numbers(_DEVICE_IN_PATH.findall(path))
    pids = _numbers(_PID_IN_PATH.findall(path))
    hosts = _HOST_IN_PATH.findall(path)
    return Place(
        ranks[-1] if ranks else None,
        devices[-1] if devices else None,
        pids[-1] if pids else None,
        hosts[-1] if hosts else None,
    )


def rank_of(line: str) -> Optional[int]:
    """Return the rank that a line says it is of."""
    match = _RANK_IN_LINE.search(line)
    return int(next(filter(None, match.groups()))) if match else None


def pid_of(line: str) -> Optional[int]:
    """Return the process id in the head of a line of CANN, MindSpore or torch_npu."""
    match = _PID_IN_LINE.search(line)
    return int(next(filter(None, match.groups()))) if match else None


def time_of(line: str) -> Optional[float]:
    """Return the time in a line: seconds since 1970 by the clock and time zone of its host."""
    match = _TIME.search(line)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, micros, *without_year = match.groups()
    if year is None:
        year, (month, day, hour, minute, second, fraction) = _NO_YEAR, without_year
    fields = (int(year), int(month), int(day), int(hour), int(minute), int(second))
    if not (
        fields[0] >= 1970
        and 1 <= fields[1] <= 12
        and 1 <= fields[2] <= 31
        and fields[3] < 24
        and fields[4] < 60
        and fields[5] <= 60
    ):
        return None
    digits = (fraction or "0") + (micros or "")
    return float(calendar.timegm((*fields, 0, 0, 0))) + float(f"0.{digits}")


def is_quiet(line: str) -> bool:
    """Tell whether a logger marks the line as information or a warning."""
    return _QUIET.search(line[:120]) is not None


def _numbers(found: "list[str] | list[tuple[str, ...]]") -> "list[int]":
    return [int(text) for one in found for text in ((one,) if isinstance(one, str) else one) if text]
