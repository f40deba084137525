"""`ascendrun explain`"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Optional

import click

from orchestrator.cli import output
from orchestrator.errors import AscendrunError

if TYPE_CHECKING:
    from orchestrator.explain import Report
    from orchestrator.runstate import RunState
    from orchestrator.store import Run


@click.command("explain")
@click.argument("what", nargs=-1, metavar="[RUN|FILE|DIR]...")
@click.option("--lang", type=click.Choice(["en", "zh"]), help="Language of cause and remedy; by default the locale's.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(what: "tuple[str, ...]", lang: Optional[str], form: str) -> int:
    """Say why a job failed: the rank that failed first, the cause, whether a retry helps, what to do, and the lines.

    RUN is a run (default: the newest); FILE and DIR are logs of any launcher: msrun, torchrun, shell scripts, CANN's
    own plog folders; packed by gzip, bzip2 or xz or not, and in tar or zip archives.

    \b
      ascendrun explain
      ascendrun explain ~/ascend/log msrun_log/
      ascendrun explain worker_*.log --format json
    """
    from orchestrator.cli import explaintable

    language = explaintable.language_of(lang)
    run = _run(what)
    if run is not None:
        report = _of_run(run)
    else:
        from orchestrator import explain

        report = explain.explain_paths(what)
    for note in report.notes:
        output.say(note)
    if form == "json":
        output.print_json(explaintable.as_json(report, language))
    else:
        explaintable.show(report, language)
        output.say(f"{report.files:,} log{'s' * (report.files != 1)} read, {output.size(report.size_bytes)}")
    return 0


def _run(what: "tuple[str, ...]") -> "Optional[Run]":
    """Return the run that is meant; None where logs are. Raises RunNotFoundError."""
    from orchestrator.store import Store
    from orchestrator.supervisor.rundir import PLAN

    store = Store.of_user()
    if not what:
        return store.find(None)
    if len(what) > 1 or (os.path.exists(what[0]) and not os.path.exists(os.path.join(what[0], PLAN))):
        return None if len(what) > 1 or not store.knows(what[0]) else store.find(what[0])
    return store.find(what[0])


def _of_run(run: "Run") -> "Report":
    from orchestrator import explain, mirror, monitor
    from orchestrator.runstate import Outcome

    for error in mirror.bring(run):
        output.say(str(error))
    state = monitor.current_state(run)
    if state.outcome is not Outcome.FAILED:
        output.say(f"{run.plan.name}: {output.headline(state)}; this is what its logs say all the same")
    return explain.explain_run(run, state)


def show_short(run: "Run", state: "RunState") -> None:
    """Print in a few lines why *run* failed; nothing where its logs do not tell. The run has been told already."""
    from orchestrator import explain, mirror
    from orchestrator.cli import explaintable

    try:
        mirror.bring(run)
        report = explain.explain_run(run, state)
    except AscendrunError as exc:
        output.say(f"not explained: {exc}")
        return
    if report.explanation.known:
        explaintable.show(report, explaintable.language_of(None), short=True)
        click.echo(f"more: ascendrun explain {run.plan.name}")
