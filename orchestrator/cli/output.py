"""JSON and tables on the terminal: the only place that knows how things look."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Optional

import click

from orchestrator.jobspec import JobSpec
from orchestrator.plan import RunPlan
from orchestrator.runstate import Outcome, RankPhase, RankState, RunState
from orchestrator.store import Run
from orchestrator.verdict import Verdict, verdict

if TYPE_CHECKING:  # what speaks HTTP, or knows rank tables, is needed by one verb only
    from rich.console import Console

    from orchestrator.rehearsal import Outturn


_PIPE_WIDTH = 200  # columns: a pipe has no width, and a table must not be cut for it
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a log must not do to the terminal of its reader
_COLOURS = {"running": "cyan", "succeeded": "green", "failed": "red", "lost": "red", "stopped": "yellow"}


def say(text: str) -> None:
    """Tell the person something; standard output stays for results."""
    click.echo(plain(text), err=True)


def print_json(value: Any) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    click.echo(text.encode("utf-8", "backslashreplace"))  # a name that is no Unicode gets JSON's own escapes


def duration(seconds: Optional[float]) -> str:
    """Return `1:02:03`, `2:03`, or `-` for what is not known."""
    if seconds is None:
        return "-"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def size(count: Optional[float]) -> str:
    """Return bytes as `1.4 GB` (powers of ten), or `-`."""
    if count is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("the loop returns at its last unit")


def number(value: Any, digits: int = 4) -> str:
    """Return a measured number; `-` where none was told, `nan` where it was told to be none."""
    return f"{value:.{digits}g}" if isinstance(value, (int, float)) else "-"


def share(value: Any) -> str:
    """Return a share in 0..1 as `94.49%`; `-` where none was told."""
    return f"{value:.2%}" if isinstance(value, (int, float)) else "-"


def of(part: Any, whole: Any) -> str:
    """Return `3/62`, `3`, or `-`."""
    if part is None:
        return "-"
    return f"{part}/{whole}" if whole is not None else str(part)


# ── a run ──────────────────────────────────────────────────────────────────────────────────────────────────


def run_as_json(
    run: Run,
    state: RunState,
    results: "Optional[Sequence[Mapping[str, Any]]]" = None,
    best: "Optional[Mapping[str, Any]]" = None,
) -> "dict[str, Any]":
    """Return what `--json` prints of a run, with *results* of its evaluations where known. Fields are only added."""
    return {
        "run": run.plan.name,
        "run_id": run.plan.run_id,
        "job": run.plan.spec.name,
        "backend": run.plan.backend,
        "folder": str(run.run_dir.root),
        "outcome": state.outcome.value,
        "finished": state.finished,
        "created_at": run.plan.created_at,
        "started_at": state.started_at,
        "ended_at": state.ended_at,
        "duration_s": state.duration_s,
        "first_failure": state.first_failure,
        "stopped_by": state.stopped_by,
        "verdict": asdict(found) if (found := verdict(state)) is not None else None,
        "supervisors_killed": state.supervisors_killed,
        "ranks": [{**asdict(rank), "phase": rank.phase.value, "tail": list(rank.tail)} for rank in state.ranks],
        "checkpoints": list(state.checkpoints),
        "health": [asdict(one) for one in state.conditions.ailments],
        "evaluations": list(state.evaluations if results is None else results),
        "best": best,
    }


def show_plan(plan: RunPlan) -> None:
    """Print what a launch would do."""
    click.echo(f"run       {plan.name}\nbackend   {plan.backend}\ndataset   {plan.dataset or '-'}")
    scheduler = "none"
    if plan.scheduler:
        address = plan.ranks[0].process.environment
        scheduler = f"{address['MS_SCHED_HOST']}:{address['MS_SCHED_PORT']}"
        scheduler += " (when a rank first asks for it)" if plan.scheduler_on_demand else ""
    click.echo(f"scheduler {scheduler}")
    if plan.rank_table is not None:
        click.echo(f"rank table\n{plain(plan.rank_table.rstrip())}")
    for rank in plan.ranks:
        cpus = ",".join(map(str, rank.process.cpus)) if rank.process.cpus else "all"
        click.echo(
            f"\nrank {rank.rank_id} on {rank.host}, device {rank.device_id}, CPUs {cpus}, in {rank.process.folder}/"
        )
        click.echo("  " + " ".join(rank.process.argv))
        for name, value in sorted(rank.process.environment.items()):
            click.echo(f"  {name}={value}")


def show_jobs(specs: Sequence[JobSpec]) -> None:
    table(("job", "devices", "what it is"), [[spec.name, str(spec.devices), spec.description] for spec in specs])


def show_runs(runs: "Sequence[tuple[Run, RunState, Optional[Mapping[str, Any]]]]") -> None:
    """Print a line for each run: its state, and its best result if one was evaluated."""
    if not runs:
        click.echo("no runs yet; `ascendrun launch` starts one")
        return
    rows = []
    for run, state, best in runs:
        lead = state.lead()
        rows.append(
            [
                run.plan.name,
                _coloured(state.outcome.value),
                str(len(run.plan.ranks)),
                of(lead.get("epoch"), lead.get("epochs")),
                number(lead.get("loss")),
                share(best.get("top_1_accuracy")) if best else "-",
                duration(state.duration_s),
                _when(run.plan.created_at),
            ]
        )
    heads = ("run", "outcome", "ranks", "epoch", "loss", "top-1", "time", "started")
    table(heads, rows, drop=("started", "ranks", "time"))


def show_run(run: Run, state: RunState, best: "Optional[Mapping[str, Any]]" = None) -> None:
    """Print a run: its outcome, then a line for each rank, then what is worth knowing."""
    click.echo(f"{run.plan.name}: {click.style(headline(state), fg=_COLOURS.get(state.outcome.value))}")
    spent = duration(state.duration_s)
    click.echo(f"job {run.plan.spec.name}, {ranks(run)} on {run.plan.backend}, {spent}, in {run.run_dir.root}")
    rows = []
    several = len({rank.host for rank in state.ranks}) > 1
    for rank in state.ranks:
        latest = rank.latest
        rows.append(
            [
                str(rank.rank_id),
                rank.host if several else "-",
                _coloured(_rank_word(rank)),
                str(rank.pid or "-"),
                of(latest.get("epoch"), latest.get("epochs")),
                of(latest.get("step"), latest.get("steps")),
                number(latest.get("loss")),
                _seconds(latest.get("step_s")),
                number(latest.get("images_per_s")),
                f"{latest['cpu_percent']:.0f}%" if "cpu_percent" in latest and rank.phase is RankPhase.RUNNING else "-",
                size(latest.get("rss_bytes") if rank.phase is RankPhase.RUNNING else rank.peak_rss_bytes),
            ]
        )
    heads = ("rank", "host", "state", "pid", "epoch", "step", "loss", "step time", "images/s", "CPU", "memory")
    table(heads, rows, drop=("pid", "memory", "CPU", "step time", "images/s"))
    if state.checkpoints:
        click.echo(f"last checkpoint: {checkpoint(state.checkpoints[-1])}")
    for evaluation in state.evaluations:
        show_evaluation(evaluation)
    if best is not None:
        click.echo(f"best checkpoint: {best.get('checkpoint')} ({scores(best)})")
    for ended in state.earlier:
        click.echo(f"attempt {ended.get('attempt')} ended: {plain(str(ended.get('sentence')))}; {_what_then(ended)}")
    if state.attempt > 1:
        click.echo(f"attempt {state.attempt} began {f'from {state.resumed_from}' if state.resumed_from else 'anew'}")
    for host, reason in state.silent_hosts.items():
        if not state.finished:
            say(f"{host} cannot be reached, and is tried again; its ranks go on: {reason}")
    if state.supervisors_killed:
        times = "once" if state.supervisors_killed == 1 else f"{state.supervisors_killed} times"
        click.echo(f"the supervisor of this run was killed {times}; another took over, the ranks ran on")
    if state.swept:
        click.echo(f"processes that ranks had left behind were ended: pid {', '.join(map(str, state.swept))}")
    if state.unkillable:
        click.echo(
            f"could not be ended (another user's, or stuck in the kernel): pid {', '.join(map(str, state.unkillable))}"
        )
    for host, disk in state.conditions.low_disks.items():
        left = f"{size(disk.get('free_bytes'))} of {size(disk.get('total_bytes'))}"
        click.echo(f"the disk of the run folder on {host} is nearly full: {left} are free")
    for one in state.conditions.ailments:
        used = "" if one.rank is None else f" (rank {one.rank})"
        click.echo(f"{'FAULT' if one.is_fault else 'warning'}: {plain(f'{one.place}{used}: {one.sentence()}')}")
    for rank in state.ranks:
        for remark in _remarks(rank):
            click.echo(f"rank {rank.rank_id} {remark}")
    show_failure(run, state)


def show_rehearsal(rows: "Sequence[Outturn]") -> None:
    """Print what became of each fault of a rehearsal."""
    cells = []
    for row in rows:
        cells.append(
            [
                row.fault,
                ("passed", "green") if row.passed else ("failed", "red"),
                _seconds(row.detected_s),
                "yes" if row.named_right else "no",
                _seconds(row.restarted_s),
                "-" if row.steps_lost is None else str(row.steps_lost),
                str(row.checkpoints_lost),
                str(len(row.left)),
            ]
        )
    heads = ("fault", "", "detected", "named right", "going on", "steps lost", "checkpoints lost", "processes left")
    table(heads, cells, drop=("steps lost", "detected"))
    for row in rows:
        if not row.passed:
            say(f"{row.fault}: {plain(row.problem or row.said)}")
            for one in row.left:
                say(f"{row.fault}: left {plain(one)}")


def _what_then(ended: Mapping[str, Any]) -> str:
    """Return what became of a run after an attempt."""
    return plain(str(ended.get("reason"))) if ended.get("restart") else f"no restart: {plain(str(ended.get('reason')))}"


def _remarks(rank: RankState) -> "list[str]":
    """Return what the supervisor noticed of a rank besides how it ended."""
    found = []
    if slow := rank.straggler:
        times = f"{number(slow.get('factor'), 2)} times the median of its host"
        found.append(f"is slow: {_seconds(slow.get('step_s'))} a step, {times}")
    if nan := rank.nan_loss:
        found.append(f"told a loss that is no number, first at epoch {nan.get('epoch')}, step {nan.get('step')}")
    return found


def checkpoint(told: "Mapping[str, Any]") -> str:
    """Return where a checkpoint lies, and of which step it is."""
    return f"{told.get('path')} (epoch {told.get('epoch', '-')}, step {told.get('step', '-')})"


def headline(state: RunState) -> str:
    """Return the outcome in a few words: `failed: rank 3, exit code 3`."""
    if state.outcome is Outcome.FAILED and (found := verdict(state)) is not None:
        return plain(f"failed{', and is started again' * (state.restart_at is not None)}: {found.sentence}")
    if state.outcome is Outcome.STOPPED and state.stopped_by:
        return f"stopped by {state.stopped_by}"
    if state.stopping and not state.finished:
        return "stopping"
    return state.outcome.value


def ranks(run: Run) -> str:
    return f"{len(run.plan.ranks)} rank{'s' * (len(run.plan.ranks) > 1)}"


def show_failure(run: Run, state: RunState) -> None:
    """Print why a run failed, by what evidence, and the culprit's last lines; nothing for a run that did not fail."""
    found = verdict(state)
    if found is None or state.outcome is not Outcome.FAILED:
        return
    click.echo(f"verdict: {found.cause.value}, {_confidence(found)}: {plain(found.sentence)}")
    for line in found.evidence:
        click.echo(f"  because {plain(line)}")
    shown = found.rank if found.rank is not None else state.first_failure
    if shown is None:
        return
    rank = state.rank(shown)
    process = run.plan.ranks[rank.rank_id].process
    if rank.ended_mono is not None and rank.started_mono is not None:
        first = "failed first" if shown == state.first_failure else "ended"
        click.echo(f"rank {shown} {first}: {rank.ending()}, after {duration(rank.ended_mono - rank.started_mono)}")
    for line in rank.tail:
        click.echo(f"  [rank {rank.rank_id}] {_CONTROL.sub('?', line)}")
    for frame in (rank.stacks or {}).get("frames", ()):
        click.echo(f"  [rank {rank.rank_id}] at {plain(str(frame))}")
    for other in state.ranks:
        if other.stacks and other.stacks.get("file"):
            click.echo(f"  stack of rank {other.rank_id}: {run.run_dir.root / str(other.stacks['file'])}")
    click.echo(f"  whole log: {run.run_dir.log(process.folder, process.log)}")


def _confidence(found: Verdict) -> str:
    return "certain" if found.confidence >= 0.9 else "likely" if found.confidence >= 0.6 else "perhaps"


def show_evaluation(evaluation: Mapping[str, Any]) -> None:
    """Print one result the way the field writes it."""
    scores = {key: evaluation[key] for key in ("top_5_accuracy", "top_1_accuracy") if key in evaluation}
    click.echo(f"result: {scores} ckpt={evaluation.get('checkpoint')}")


def scores(result: Mapping[str, Any]) -> str:
    """Return what a checkpoint scored, in a few words."""
    return (
        f"top-1 {share(result.get('top_1_accuracy'))}, top-5 {share(result.get('top_5_accuracy'))}, "
        f"loss {number(result.get('loss'))}"
    )


def plain(text: str) -> str:
    """Return a text without what would reach into the reader's terminal."""
    return _CONTROL.sub("?", text)


def show_line(line: str) -> None:
    """Print a line of a program's output as it is, but for what would reach into the reader's terminal."""
    click.echo(plain(line).encode("utf-8", "replace"))  # names of files need not be Unicode


def show_prediction(line: str) -> None:
    """Print what a predict module says of one picture, a JSON object: a heading, then a line for each class."""
    try:
        said = json.loads(line)
        if "error" in said:
            say(f"ascendrun: {said['error']}")
            return
        width = max(len(one["class"]) for one in said["classes"])
        rows = [f"  {one['class']:<{width}}  {one['probability']:7.2%}" for one in said["classes"]]
        text = "\n".join([str(said["picture"]), *rows])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        text = line  # some other word of the job's module
    show_line(text)


def _rank_word(rank: RankState) -> str:
    if rank.phase is RankPhase.RUNNING:
        return rank.program_phase or "running"
    if rank.phase in (RankPhase.FAILED, RankPhase.STOPPED):
        return f"{rank.phase.value} ({rank.ending()})"
    return str(rank.phase.value)


def _coloured(word: str) -> "tuple[str, Optional[str]]":
    return word, _COLOURS.get(word.split(" ")[0])


def _seconds(value: Any) -> str:
    return f"{value:.3f} s" if isinstance(value, (int, float)) else "-"


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def table(heads: Sequence[str], rows: "Sequence[Sequence[Any]]", drop: Sequence[str] = ()) -> None:
    """Print a table. Columns without a single value are left out, and in a narrow terminal those of *drop* too."""
    from rich.table import Table
    from rich.text import Text

    terminal = console()
    cells = [[cell if isinstance(cell, tuple) else (cell, None) for cell in row] for row in rows]
    widths = {
        head: max(len(head), *(len(row[column][0]) for row in cells))
        for column, head in enumerate(heads)
        if any(row[column][0] != "-" for row in cells)
    }
    for head in drop:
        if sum(widths.values()) + 2 * len(widths) > terminal.width:
            widths.pop(head, None)
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for head in widths:
        grid.add_column(head, overflow="fold")
    for row in cells:
        grid.add_row(*(Text(text, style=style or "") for head, (text, style) in zip(heads, row) if head in widths))
    terminal.print(grid)


def console() -> Console:
    from rich.console import Console  # 80 ms, which most verbs need not spend

    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
