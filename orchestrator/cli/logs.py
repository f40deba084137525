"""`ascendrun logs`"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import click

from orchestrator import logs, mirror
from orchestrator.cli import output
from orchestrator.inventory import spell_ids
from orchestrator.logs import Source
from orchestrator.store import Store


@click.command("logs")
@click.argument("run", required=False)
@click.option(
    "--rank", "ranks", type=click.IntRange(0), multiple=True, metavar="N", help="Only rank N. May be repeated."
)
@click.option("--scheduler", is_flag=True, help="The log of MindSpore's scheduler too.")
@click.option("--tail", type=click.IntRange(1), metavar="N", help="Only the last N lines of each log.")
@click.option("-f", "--follow", is_flag=True, help="Go on as the logs grow, until the run ends.")
@click.option("--fold", is_flag=True, help="Print a line that several ranks logged once, with all their numbers.")
def command(
    run: Optional[str], ranks: "tuple[int, ...]", scheduler: bool, tail: Optional[int], follow: bool, fold: bool
) -> int:
    """Print what the ranks of RUN (default: the newest) logged, each line with its rank."""
    found = Store.of_user().find(run)
    chosen = logs.sources(found, ranks or None, scheduler=scheduler)
    for error in mirror.bring(found):
        output.say(str(error))
    if follow:
        try:
            with mirror.flowing(found, [source.path for source in chosen]) as flowing:
                for batch in logs.follow(found, chosen, tail, flowing=flowing):
                    for having, line in (
                        logs.fold_batch(batch) if fold else (([source], line) for source, line in batch)
                    ):
                        _print(having, line)
        except KeyboardInterrupt:
            return 0  # the one way to leave `--follow`; the run goes on
    elif fold:
        for having, line in logs.fold(chosen, tail):
            _print(having, line)
    else:
        for source, line in logs.read(chosen, tail):
            _print([source], line)
    return 0


def _print(having: Sequence[Source], line: str) -> None:
    ranks = [source.rank for source in having if source.rank is not None]
    labels = [f"rank {spell_ids(sorted(ranks))}"] if ranks else []
    labels += [source.label for source in having if source.rank is None]
    click.echo(f"[{', '.join(labels)}] {line}")
