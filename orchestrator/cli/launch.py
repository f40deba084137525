"""`ascendrun launch`"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import click

from orchestrator import jobfiles, launch
from orchestrator.cli import reaching
from orchestrator.cli.interrupts import interrupts_noted
from orchestrator.errors import SpecError
from orchestrator.jobspec import RENDEZVOUS, JobSpec
from orchestrator.plan import RunPlan
from orchestrator.store import Store

DEFAULT_JOB = "sknet50"


class WithProgram(click.Command):
    """Keeps what follows `--` whole: it is the user's program, and its options are not ours."""

    def parse_args(self, ctx: click.Context, args: "list[str]") -> "list[str]":
        if "--" in args:
            index = args.index("--")
            ctx.meta["program"] = args[index + 1 :]
            args = args[:index]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> "list[str]":
        return ["[OPTIONS]", "[JOB]", "[-- PROGRAM ARGUMENTS…]"]


@click.command("launch", cls=WithProgram)
@click.argument("job", nargs=-1)
@click.option("--devices", metavar="LIST", help="How many devices, or which: 8, 0,2 or 4-7. One rank runs on each.")
@click.option("--backend", type=click.Choice(["auto", "ascend", "cpu"]), help="auto takes Ascend where there is one.")
@click.option("--dataset", metavar="DIR", help="The dataset; checked before anything starts.")
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change a key of the job's config:, or environment.NAME. May be repeated.",
)
@click.option("--name", help="Name of the run; made from the job and the time if left away.")
@click.option(
    "--run-dir",
    metavar="DIR",
    default="runs",
    show_default=True,
    envvar="ASCENDRUN_RUN_DIR",
    show_envvar=True,
    help="Folder in which the run gets a folder of its own.",
)
@click.option(
    "--master-port",
    type=click.IntRange(1024, 65534),
    metavar="PORT",
    help="MASTER_PORT; the next one is MindSpore's scheduler's. Free ports are chosen if left away.",
)
@click.option(
    "--rendezvous",
    type=click.Choice(RENDEZVOUS),
    help="How MindSpore's ranks meet; auto: by a rank table on Ascend with MindSpore 1.x, else in its dynamic cluster.",
)
@click.option("--rank-table", metavar="FILE", help="Use this rank table, once checked, instead of making one.")
@reaching.hosts
@reaching.host
@reaching.way
@click.option(
    "--hang-after",
    type=click.FloatRange(0, 604_800),
    metavar="SECONDS",
    help="End the run when its ranks are silent for so long; 0: never. Learned from the run if left away.",
)
@click.option(
    "--health-every",
    type=click.FloatRange(0, 86_400),
    metavar="SECONDS",
    help="Look at the devices in use so often; 0: never. 30 if left away, or more where their tools take much.",
)
@click.option(
    "--max-restarts",
    type=click.IntRange(0),
    metavar="N",
    help="Start again up to N times where a failure is worth it, from the newest whole checkpoint.",
)
@click.option("--resume", metavar="RUN|CKPT", help="Go on from the newest whole checkpoint of RUN, or from this one.")
@click.option("--skip-doctor", is_flag=True, help="Start without a look at what may make the run fail.")
@click.option("--detach", is_flag=True, help="Return as soon as the run is under way.")
@click.option("--dry-run", is_flag=True, help="Print what would run, with its environment, and start nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result (or, with --dry-run, the plan) as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    job: "tuple[str, ...]",
    settings: "tuple[str, ...]",
    detach: bool,
    dry_run: bool,
    as_json: bool,
    run_dir: str,
    hosts: Optional[str],
    targets: "tuple[str, ...]",
    hang_after: Optional[float],
    health_every: Optional[float],
    ssh_config: Optional[Path],
    accept_new_host_keys: bool,
    max_restarts: Optional[int],
    resume: Optional[str],
    **options: Any,
) -> int:
    """Run JOB (a built-in name or a YAML file; default sknet50), or the program after `--`.

    With --hosts or --host it runs on these, on --devices of each, over SSH. It goes on when this terminal is closed;
    `ascendrun status` finds it again. Ctrl-C stops it.

    \b
      ascendrun launch sknet50 --devices 8 --dataset DIR
      ascendrun launch sknet50-cpu --devices 2 --dataset DIR --set epoch_size=1
      ascendrun launch --devices 8 -- python my_train.py --lr 0.1
    """
    spec = job_of(job, ctx.meta.get("program")).with_settings(settings)
    if hang_after is not None:
        spec = replace(spec, hang_after=hang_after)
    if health_every is not None:
        spec = replace(spec, health_every=health_every)
    if max_restarts is not None:
        spec = spec.with_restarts(max_restarts)
    request = launch.LaunchRequest(run_dir=run_dir, command_line=("ascendrun", *sys.argv[1:]), **options)
    if resume is not None:
        from orchestrator import resuming

        request = replace(request, resume=resuming.checkpoint_of(resume, Store.of_user()))
    far = bool(hosts or targets)
    if far and dry_run:
        raise SpecError("--dry-run plans for this machine; what far hosts offer is known when they are asked")
    if dry_run:
        _show(launch.prepare(spec, request, os.environ), as_json)
        return 0
    with interrupts_noted() as interrupts:
        if far or spec.restart is not None:  # who restarts a run stands beside its hosts, this one too
            from orchestrator import farlaunch
            from orchestrator.hosts import load_inventory, this_machine

            inventory = load_inventory(hosts, targets) if far else this_machine()
            way = farlaunch.Way(ssh_config, accept_new_host_keys)
            run = farlaunch.start(spec, request, inventory, Store.of_user(), way, _tell)
        else:
            run = launch.start(spec, request, os.environ, Store.of_user(), _tell)
        # The ranks are on their way: only now what it takes to watch them, which they need not wait for.
        from orchestrator import monitor
        from orchestrator.cli import attach, output

        if run.plan.backend == "cpu" and (options["backend"] or spec.backend) == "auto":
            output.say("no Ascend device on this machine: taking the CPU backend" + _smaller_job(spec))
        if detach and not interrupts.count:
            if as_json:
                output.print_json(output.run_as_json(run, monitor.current_state(run)))
            else:
                click.echo(run.plan.name)
            return 0
        output.say(f"run {run.plan.name}: {output.ranks(run)}, in {run.run_dir.root}")
        state = attach.follow_to_end(run, interrupts)
    if as_json:
        output.print_json(output.run_as_json(run, state))
    else:
        attach.show_end(monitor.as_of(run, state), state)
    return attach.exit_code(state, interrupts)


def _tell(text: str) -> None:
    from orchestrator.cli import output

    output.say(text)


def _show(plan: RunPlan, as_json: bool) -> None:
    from orchestrator.cli import output

    if as_json:
        click.echo(plan.to_json(), nl=False)
    else:
        output.show_plan(plan)


def _smaller_job(spec: JobSpec) -> str:
    smaller = f"{spec.name}-cpu"
    if spec.module is None or smaller not in jobfiles.builtin_names():
        return ""
    return f"; {spec.name} asks for much more than most have there: {smaller} is the same job sized for a laptop"


def job_of(job: "tuple[str, ...]", program: "Optional[list[str]]") -> JobSpec:
    if program is not None:
        if job:
            raise SpecError(f"give either a JOB or a program after --, not both (JOB is '{job[0]}')")
        if not program:
            raise SpecError("there is no program after --")
        return launch.job_for_command(program)
    if len(job) > 1:
        import shlex

        raise SpecError(
            f"launch takes one JOB; to launch a program put -- before it: ascendrun launch -- {shlex.join(job)}"
        )
    return jobfiles.load(job[0] if job else DEFAULT_JOB)
