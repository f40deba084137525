"""`ascendrun`: the group of verbs, and the one place that turns our errors into a line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Optional

import click

from orchestrator import __version__
from orchestrator.errors import AscendrunError, HostError, nearest

INTERRUPTED = 130

# Verb -> (module, what the help says of it). Each is imported when it is used, so that help is instant.
VERBS = {
    "launch": "Run a job: one process a device, watched until it ends.",
    "status": "Show the recent runs, or how one run is doing.",
    "attach": "Watch a run to its end.",
    "logs": "Print the logs of a run's ranks.",
    "doctor": "Say what is wrong with hosts before a run finds out.",
    "explain": "Say why a job failed, by its logs.",
    "stop": "End a run, and everything it started.",
    "restart": "Begin the next attempt of a run; kill a rank, for a drill.",
    "rehearse": "Put faults into a short run of a job, and see what they cost.",
    "clean": "End what earlier runs left behind.",
    "eval": "Evaluate the checkpoints of a run.",
    "export": "Export a checkpoint for inference: MINDIR, ONNX or AIR.",
    "predict": "Say what is on pictures.",
    "rank-table": "Write, check, show, merge or convert HCCL rank tables.",
    "collect": "Bring together a run's checkpoints, logs, metrics and results.",
    "hosts": "Show the hosts of a file, and whether they answer.",
    "data": "Fetch a dataset, make a small one, or look through one.",
    "jobs": "List the jobs that come with ascendrun, or print one.",
}


class Verbs(click.Group):
    """Loads a verb from `orchestrator.cli.VERB` when it is called."""

    def list_commands(self, ctx: click.Context) -> "list[str]":
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> Optional[click.Command]:
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"orchestrator.cli.{name.replace('-', '_')}").command
        return command

    def resolve_command(self, ctx: click.Context, args: "list[str]") -> Any:
        if args and args[0] not in VERBS:
            ctx.fail(f"no such command '{args[0]}'{nearest(args[0], VERBS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="ascendrun")
@click.pass_context
def ascendrun(ctx: click.Context) -> None:
    """Launch, watch, stop and collect training jobs on Huawei Ascend, or on the CPU.

    \b
      ascendrun launch sknet50 --devices 8 --dataset DIR
      ascendrun launch --devices 8 -- python my_train.py --lr 0.1
      ascendrun status
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Run the command line and exit: 0 fine, 1 the job failed, 2 bad input, 3 host trouble, 130 interrupted."""
    try:
        code = ascendrun.main(standalone_mode=False)
        sys.stdout.flush()
    except AscendrunError as exc:
        from orchestrator.cli import output  # help is instant without it

        output.say(f"ascendrun: {exc}")  # it may quote a server, or names of files
        code = exc.exit_code
    except click.exceptions.Abort:
        click.echo("ascendrun: interrupted", err=True)
        code = INTERRUPTED
    except click.ClickException as exc:
        click.echo(f"ascendrun: {exc.format_message()}" + _where_help_is(exc), err=True)
        code = exc.exit_code
    except BrokenPipeError:  # `ascendrun logs | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1  # as click does where it notices first
    except OSError as exc:  # a run of another user, a file system that went away
        click.echo(f"ascendrun: {exc.filename or 'input/output'}: {exc.strerror or exc}", err=True)
        code = HostError.exit_code
    sys.exit(code)


def _where_help_is(exc: click.ClickException) -> str:
    context = getattr(exc, "ctx", None)
    return f" (see `{context.command_path} --help`)" if context is not None else ""
