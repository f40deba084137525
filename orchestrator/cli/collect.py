"""`ascendrun collect`"""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import click

from orchestrator import collect, mirror
from orchestrator.cli import output
from orchestrator.errors import HostError
from orchestrator.store import Store


@click.command("collect")
@click.argument("run", required=False)
@click.option("-o", "--output", "destination", metavar="DIR", help="Where to; default collected/RUN.")
@click.option("--json", "as_json", is_flag=True, help="Print the files as JSON.")
def command(run: Optional[str], destination: Optional[str], as_json: bool) -> int:
    """Copy checkpoints, logs, metrics and evaluation results of RUN (default: the newest), with a manifest."""
    found = Store.of_user().find(run)
    folder = Path(destination).expanduser() if destination else Path("collected") / found.plan.name

    def tell(file: collect.CollectedFile) -> None:
        if not as_json and file.kind == "checkpoint":
            output.say(f"{'collected' if file.copied else 'unchanged'} {file.path} ({output.size(file.size)})")

    missing = mirror.bring(found)
    files = collect.collect(found, folder, tell)
    if as_json:
        output.print_json({"folder": str(folder), "files": [vars(file) for file in files]})
        return HostError.exit_code if missing else 0
    checkpoints = sum(file.kind == "checkpoint" for file in files)
    total = output.size(sum(file.size for file in files))
    click.echo(
        f"{folder}: {len(files)} files, {total}, {checkpoints} checkpoint{'s' * (checkpoints != 1)}; "
        f"prove it with: cd {folder} && sha256sum -c --quiet {collect.SUMS}"
    )
    for error in missing:
        output.say(f"what this host has is missing: {error}")
    return HostError.exit_code if missing else 0
