"""What a far host may tell of a run: of itself and its own ranks, in the shape that readers of the journal count on.

A host is a machine that others may hold, or that is of another version. What it says is kept for ever in our journal;
an event that is none would break whoever looks at the run, or at the list of all runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.supervisor import events
from orchestrator.supervisor.events import Event

_OF_RANKS = (events.PHASE, events.CHECKPOINT, events.EVALUATION)
_MOST = 1 << 63


def may_tell(event: Event, host: str, ranks: "frozenset[int]") -> bool:
    """Tell whether *event* can be one of *host*, which has these *ranks*."""
    if (
        event.host != host
        or event.kind in events.OF_CONTROLLER
        or not (_is_finite(event.at) and _is_finite(event.mono))
    ):
        return False
    of_rank = _is_count(event.rank) and event.rank in ranks
    if not 0 < event.seq < _MOST or not (of_rank or (event.rank is None and event.kind not in _OF_RANKS)):
        return False
    if not all(fits(event.data[name]) for name, fits in _SHAPES.items() if event.data.get(name) is not None):
        return False
    told = event.data.get("ranks") if event.kind == events.PROGRESS else None
    return told is None or _is_progress(told, {str(rank) for rank in ranks})


def _is_progress(told: Any, ranks: "set[str]") -> bool:
    return isinstance(told, Mapping) and all(
        rank in ranks and isinstance(figures, Mapping) and all(map(_is_number, figures.values()))
        for rank, figures in told.items()
    )


def _is_count(value: object) -> bool:
    return type(value) is int and abs(value) < _MOST


def _is_number(value: object) -> bool:
    return value is None or _is_count(value) or isinstance(value, float)  # a loss may be nan


def _is_finite(value: object) -> bool:
    return _is_count(value) or (isinstance(value, float) and math.isfinite(value) and abs(value) < _MOST)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))


# Fields have one shape in whatever kind of event they stand; others are shown as JSON, if at all. Null is no field.
_SHAPES: "dict[str, Callable[[object], bool]]" = {
    **dict.fromkeys(("pid", "previous_pid", "code", "signal", "device", "level"), _is_count),
    **dict.fromkeys(("at", "mono", "since_mono", "cpu_s", "peak_rss_bytes", "grace_s"), _is_finite),
    **dict.fromkeys(("quiet_s", "limit_s", "factor", "step_s", "median_s", "free_bytes", "total_bytes"), _is_finite),
    **dict.fromkeys(("epoch", "epochs", "step", "steps", "loss"), _is_number),
    **dict.fromkeys(("top_1_accuracy", "top_5_accuracy"), _is_number),
    **dict.fromkeys(("process", "error", "phase", "path", "checkpoint", "cause", "by", "reason"), _is_text),
    **dict.fromkeys(("state", "wchan", "file", "evidence", "what", "severity"), _is_text),
    **dict.fromkeys(("tail", "errors", "processes", "frames", "codes"), _are_texts),
    "pids": _are_counts,
}
