"""`ascendrun predict`"""

from __future__ import annotations

import os
from typing import Optional

import click

from orchestrator import models
from orchestrator.cli import output
from orchestrator.cli.foreground import run_to_end
from orchestrator.cli.interrupts import interrupts_noted
from orchestrator.store import Store


@click.command("predict")
@click.argument("what", metavar="CKPT|ONNX|MINDIR|RUN")
@click.argument("pictures", metavar="PICTURES...", nargs=-1, required=True)
@click.option("--top", metavar="N", type=click.IntRange(min=1), default=5, show_default=True, help="Classes to name.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line, also for pictures that failed.")
@click.option("--job", metavar="JOB", help="Whose predict to use; default: that of the file's run, or sknet50.")
def command(what: str, pictures: "tuple[str, ...]", top: int, as_json: bool, job: Optional[str]) -> int:
    """Say what is on pictures: for each its likeliest classes, with their probability.

    PICTURES are files (PNG, JPEG, WEBP, BMP, GIF, TIFF, PPM) of any size, and folders of them. Of a RUN the best
    checkpoint is taken, else the newest. ONNX starts in under a second, the others load MindSpore first.

    SKNet was trained on 32x32 pictures that their object fills, so each picture is shrunk, as a whole, to that size
    before it is enlarged to what the net takes: sharper ones would be of a kind that it has never seen.
    """
    chosen = models.choose(what, job, Store.of_user())
    if not as_json:
        output.say(f"model {chosen.path}: {chosen.why}")
    with interrupts_noted() as interrupts:
        child = models.start_prediction(chosen, pictures, top, os.environ)
        return run_to_end(child, interrupts, output.show_line if as_json else output.show_prediction)
