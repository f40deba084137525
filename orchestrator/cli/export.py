"""`ascendrun export`"""

from __future__ import annotations

import os
from typing import Optional

import click

from orchestrator import models
from orchestrator.cli import output
from orchestrator.cli.foreground import run_to_end
from orchestrator.cli.interrupts import interrupts_noted
from orchestrator.store import Store


@click.command("export")
@click.argument("what", metavar="[RUN|CKPT]", required=False)
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["mindir", "onnx", "air"], case_sensitive=False),
    default="mindir",
    show_default=True,
    help="AIR can only be made on Ascend.",
)
@click.option("-o", "--output", "target", metavar="FILE", help="The file to write; default: beside the checkpoint.")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@click.option("--job", metavar="JOB", help="Whose export to use; default: the run's, or sknet50.")
def command(what: Optional[str], file_format: str, target: Optional[str], force: bool, job: Optional[str]) -> int:
    """Export a checkpoint for inference: one file, or the best one of a run (default: the newest run).

    The best is the one that `ascendrun eval --best` marked, else the newest. What is exported is run again and must
    agree with the net, or no file is left; beside it a JSON file says its classes and how pictures are prepared.
    """
    chosen = models.choose(what, job, Store.of_user())
    output.say(f"checkpoint {chosen.path}: {chosen.why}")
    with interrupts_noted() as interrupts:
        child = models.start_export(chosen, file_format, target, os.environ, force=force)
        return run_to_end(child, interrupts, output.show_line)
