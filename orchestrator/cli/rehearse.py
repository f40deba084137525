"""`ascendrun rehearse`"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from orchestrator import farlaunch, launch, rehearsal
from orchestrator.cli import output, reaching
from orchestrator.cli.launch import WithProgram, job_of
from orchestrator.errors import SpecError, nearest
from orchestrator.hosts import load_inventory, this_machine
from orchestrator.jobspec import RestartSpec
from orchestrator.store import Run, Store


@click.command("rehearse", cls=WithProgram)
@click.argument("job", nargs=-1)
@click.option(
    "--faults", metavar="LIST", default=",".join(rehearsal.FAULTS), show_default=True, help="What goes wrong."
)
@click.option("--devices", metavar="LIST", help="As for launch.")
@click.option("--backend", type=click.Choice(["auto", "ascend", "cpu"]), help="As for launch.")
@click.option("--dataset", metavar="DIR", help="As for launch.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="As for launch; may be repeated.")
@click.option(
    "--patience",
    type=click.FloatRange(1, 86_400),
    default=600.0,
    show_default=True,
    metavar="S",
    help="Longest wait for a checkpoint, for a fault to be noticed, and for the next step.",
)
@click.option(
    "--hang-after",
    type=click.FloatRange(1, 86_400),
    default=30.0,
    show_default=True,
    metavar="S",
    help="A rehearsal has no time to learn how long the job is silent by itself: longer than its longest step.",
)
@reaching.hosts
@reaching.host
@reaching.way
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    job: "tuple[str, ...]",
    faults: str,
    settings: "tuple[str, ...]",
    patience: float,
    hang_after: float,
    as_json: bool,
    **options: Any,
) -> int:
    """Run JOB, or the program after `--`, once for each fault, and see what the fault costs.

    Each time the job is launched, the fault is put into it after its first checkpoint, and the run is ended as soon as
    it goes on. Nothing of it is kept. Exit code 1 where a fault cost more than it should.

    \b
      kill, segv   the last rank dies by a signal
      stop         the last rank is frozen
      supervisor   what watches over the last rank's host is killed
      controller   what watches over the run on this machine is killed
    """
    names = [name.strip() for name in faults.split(",") if name.strip()]
    for name in names:
        if name not in rehearsal.FAULTS:
            raise SpecError(f"--faults: there is no fault {name!r}{nearest(name, rehearsal.FAULTS)}")
    spec = job_of(job, ctx.meta.get("program")).with_settings(settings)
    policy = replace(spec.restart or RestartSpec(), max_restarts=2, backoff_s=0.0)
    spec = replace(spec, restart=policy, hang_after=hang_after)
    targets, named = options.pop("targets"), options.pop("hosts")
    way = farlaunch.Way(options.pop("ssh_config"), options.pop("accept_new_host_keys"))
    inventory = load_inventory(named, targets) if named or targets else this_machine()
    store = Store.of_user()
    rows = []
    with tempfile.TemporaryDirectory(prefix="ascendrun-rehearsal-") as folder:
        for fault in rehearsal.signals(names):
            name = f"rehearsal-{fault.name}-{os.getpid()}"
            request = launch.LaunchRequest(
                run_dir=folder, name=name, command_line=("ascendrun", *sys.argv[1:]), **options
            )

            def start(request: launch.LaunchRequest = request) -> Run:
                return farlaunch.start(spec, request, inventory, store, way)

            output.say(f"{fault.name}: launching {spec.name}")
            row = rehearsal.rehearse(fault, start, patience_s=patience)
            rows.append(row)
            store.forget(name, Path(folder) / name)
    if as_json:
        output.print_json([{**asdict(row), "passed": row.passed} for row in rows])
    else:
        output.show_rehearsal(rows)
    return 0 if all(row.passed for row in rows) else 1
