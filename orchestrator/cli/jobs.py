"""`ascendrun jobs`"""

from __future__ import annotations

from typing import Optional

import click

from orchestrator import jobfiles
from orchestrator.cli import output


@click.command("jobs")
@click.argument("name", required=False)
def command(name: Optional[str]) -> int:
    """List the jobs that come with ascendrun; or print the file of one, to begin your own with."""
    if name is not None:
        click.echo(jobfiles.read_text(name)[0], nl=False)
        return 0
    output.show_jobs([jobfiles.load(known) for known in jobfiles.builtin_names()])
    return 0
