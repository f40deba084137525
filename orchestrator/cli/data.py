"""`ascendrun data`: fetch a dataset, make a small one, look through one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Optional

import click

from orchestrator import datasets
from orchestrator.cli import datatable, output
from orchestrator.cli.live import live_line
from orchestrator.errors import UserError

_LAYOUT = click.option(
    "--layout", metavar="NAME", default="cifar10-binary", show_default=True, help="What kind of dataset."
)


@click.group("data", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Bring a dataset here, make a small one, or look through one.

    \b
      ascendrun data fetch DIR
      ascendrun data sample DIR --train 384 --test 200
      ascendrun data check DIR
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@command.command("fetch")
@click.argument("folder", metavar="DIR")
@_LAYOUT
@click.option("--url", help="A mirror to download from, instead of the published address.")
@click.option("--sha256", metavar="HEX", help="Another archive than the published one is meant: the one with this sum.")
@click.option("--archive", metavar="FILE", help="Take this archive, which you brought here, and download nothing.")
@click.option(
    "--timeout",
    "timeout_s",
    metavar="S",
    type=click.FloatRange(min=0.1),
    default=30.0,
    show_default=True,
    help="Take the connection for broken after so many seconds without a byte.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the files and their checksums as JSON.")
def fetch_command(
    folder: str,
    layout: str,
    url: Optional[str],
    sha256: Optional[str],
    archive: Optional[str],
    timeout_s: float,
    as_json: bool,
) -> int:
    """Download a dataset into DIR, prove it by its checksum, and lay it out.

    A download that was broken off goes on where it stood. Where all is there and whole, nothing is done. Proxies are
    taken from https_proxy, http_proxy and no_proxy.
    """
    from orchestrator.fetch import FetchRequest, fetch  # what speaks HTTP is needed here only

    if url is not None and archive is not None:
        raise UserError("give either --url or --archive, not both")
    request = FetchRequest(
        url=url, sha256=sha256, archive=None if archive is None else _path(archive), timeout_s=timeout_s
    )
    target = _path(folder)
    try:
        with live_line() as show:
            done = fetch(
                datasets.layout_of(layout),
                target,
                request,
                lambda transfer: show(datatable.transfer_line(transfer)),
                output.say,
            )
    except KeyboardInterrupt:
        if archive is None:
            output.say("what has come so far is kept; the same command goes on from there")
        raise
    if as_json:
        output.print_json({"folder": folder, "was_there": done.was_there, "files": done.files})
    elif done.was_there:
        output.show_line(f"{folder}: already here and whole, {len(done.files)} files")
    else:
        output.show_line(f"{folder}: {len(done.files)} files, checksum proven")
    return 0


@command.command("sample")
@click.argument("folder", metavar="DIR")
@_LAYOUT
@click.option("--train", type=int, metavar="N", default=512, show_default=True, help="Training pictures.")
@click.option("--test", type=int, metavar="M", default=200, show_default=True, help="Test pictures.")
@click.option("--seed", type=int, metavar="S", default=1, show_default=True, help="Other seeds give other pictures.")
def sample_command(folder: str, layout: str, **options: Any) -> int:
    """Make a small dataset that a net learns within minutes, to try things with."""
    from orchestrator.sampler import make_sample

    return make_sample(datasets.layout_of(layout), _path(folder), say=output.say, **options)


@command.command("check")
@click.argument("folder", metavar="DIR")
@_LAYOUT
@click.option(
    "--class-num", type=click.IntRange(1, 256), metavar="N", help="Classes there are; by default the layout's."
)
@click.option("--json", "as_json", is_flag=True, help="Print the counts and all that was found as JSON.")
def check_command(folder: str, layout: str, class_num: Optional[int], as_json: bool) -> int:
    """Read every record of the dataset in DIR: count the pictures of each class, and find damaged files.

    Exit code 0: fine, perhaps with warnings. 2: damaged, or no dataset.
    """
    known = datasets.layout_of(layout)
    with live_line() as show:
        survey = datasets.survey_dataset(
            known,
            _path(folder),
            class_num,
            lambda done, total: show(f"{output.size(done)} of {output.size(total)} read"),
        )
    if as_json:
        output.print_json(datatable.survey_as_json(folder, layout, survey))
    else:
        datatable.show_survey(folder, survey)
    return UserError.exit_code if survey.damages else 0


def _path(given: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(given)))
