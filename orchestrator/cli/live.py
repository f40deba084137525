"""A line on the terminal that changes while something goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Optional, Protocol

from orchestrator.cli.output import duration, number, of, say
from orchestrator.runstate import RankPhase, RunState
from orchestrator.verdict import Cause, verdict

_PLAIN_EVERY_S = 10.0  # how often a run tells of itself where there is no terminal to redraw


def progress_line(state: RunState) -> str:
    """Return where a run is, in one line: epoch, step, loss, images/s, time left."""
    lead = state.lead()
    parts = [f"{sum(rank.phase is RankPhase.RUNNING for rank in state.ranks)}/{len(state.ranks)} ranks"]
    if lead:
        parts += [
            f"epoch {of(lead.get('epoch'), lead.get('epochs'))}",
            f"step {of(lead.get('step'), lead.get('steps'))}",
            f"loss {number(lead.get('loss'))}",
        ]
        if lead.get("images_per_s") is not None:
            parts.append(f"{number(lead['images_per_s'])} images/s")
        left_s = _time_left_s(lead)
        if left_s is not None:
            parts.append(f"{duration(left_s)} left")
    else:
        phases = sorted({rank.program_phase for rank in state.ranks if rank.program_phase})
        parts.append(", ".join(phases) if phases else "starting")
    if state.attempt > 1:
        parts[0] += f", attempt {state.attempt}"
    if state.restart_at is not None:
        return f"attempt {state.attempt} failed, starting again"
    if state.stopping:
        found = verdict(state)
        return f"stopping  {parts[0]}" + (f"  {found.sentence}" if found and found.cause is not Cause.STOPPED else "")
    slow = [str(rank.rank_id) for rank in state.ranks if rank.straggler is not None]
    ailing = sorted({one.place for one in state.conditions.ailments if one.is_fault})
    return "  ".join(
        [*parts, *([f"rank {', '.join(slow)} slow"] if slow else []), *(f"{place} has a fault" for place in ailing)]
    )


def _time_left_s(lead: Mapping[str, Any]) -> Optional[float]:
    try:
        done = (lead["epoch"] - 1) * lead["steps"] + lead["step"]
        return float((lead["epochs"] * lead["steps"] - done) * lead["step_s"])
    except (KeyError, TypeError):
        return None


def watch(states: Iterable[RunState], on_state: Callable[[RunState], None]) -> RunState:
    """Show the run while it goes on and return its last state: a live line, or plain lines in a pipe.

    *on_state* is called with each state, after it was shown.
    """
    state = None
    stopping = False
    with live_line() as show:
        for state in states:
            if not state.finished:
                show(progress_line(state), now=state.stopping and not stopping)
            stopping = state.stopping
            on_state(state)
    assert state is not None, "states() yields at least once"
    return state


class ShowLine(Protocol):
    def __call__(self, line: str, *, now: bool = False) -> None: ...


@contextmanager
def live_line() -> "Iterator[ShowLine]":
    """Yield what shows a changing line: redrawn in a terminal, else said anew every ten seconds or *now*."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:

            def redraw(line: str, *, now: bool = False) -> None:
                live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)

            yield redraw
    else:
        told, told_at = "", -_PLAIN_EVERY_S

        def tell(line: str, *, now: bool = False) -> None:
            nonlocal told, told_at
            if line != told and (now or time.monotonic() - told_at >= _PLAIN_EVERY_S):
                say(line)
                told, told_at = line, time.monotonic()

        yield tell
