"""The side of a far host: a run begins there when it is told so, and others read there what happens."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, Mapping

from orchestrator.supervisor import events, ownership, starting
from orchestrator.supervisor.hostplan import HostPlan
from orchestrator.supervisor.journal import read_events
from orchestrator.supervisor.lease import renew
from orchestrator.supervisor.linux import Watcher
from orchestrator.supervisor.main import supervise
from orchestrator.supervisor.progress import open_regular
from orchestrator.supervisor.rundir import RunDir, write_atomically

BEAT_S = 2.0  # an empty line at least so often: whoever reads knows that the line is alive
NO_RUN = 4  # exit code where there is no run to follow
_BLOCK = 1 << 18
_MODE_OWN = 0o600  # the environment of ranks may hold secrets


class Refused(Exception):
    """This host cannot do what was asked; the text says why, in one line."""


def start_run(run_dir: RunDir, told: Mapping[str, Any]) -> None:
    """Make the run folder and start its supervisor. Raises Refused or OSError.

    *told*: host_plan, unpack (the folder of the user's program, or None), rank_table (its text, or None).
    What was made is removed again then.
    """
    plan = HostPlan.from_json(json.dumps(told["host_plan"]))
    run_dir.root.parent.mkdir(parents=True, exist_ok=True)
    run_dir.root.mkdir(mode=0o755)  # of another launch that took the name meanwhile it is not ours to remove
    try:
        run_dir.make_folders([process.folder for process in plan.processes])
        if told.get("unpack"):
            shutil.copytree(told["unpack"], run_dir.code)
        if told.get("rank_table"):
            write_atomically(run_dir.rank_table, told["rank_table"])
        write_atomically(run_dir.host_plan, plan.to_json(), mode=_MODE_OWN)
        reason = starting.start(run_dir, supervise)
        if reason:
            raise Refused(reason)
    except BaseException:
        shutil.rmtree(run_dir.root, ignore_errors=True)
        raise


def follow(run_dir: RunDir, after: int) -> None:
    """Print each event after number *after*, and an empty line in every BEAT_S; end after the last event of the run.

    Where there is no run, exit code NO_RUN says so.
    """
    if not run_dir.host_plan.exists():
        print(f"there is no run in {run_dir.root}", file=sys.stderr)
        sys.exit(NO_RUN)
    watcher = Watcher()
    watcher.add(run_dir.root)
    offset, finished = 0, False
    while True:
        found, offset = read_events(run_dir.journal, offset)
        new = [event for event in found if event.seq > after]
        finished = finished or any(event.kind == events.RUN_FINISHED for event in found)
        heard = _tell("".join(event.to_line() for event in new) or "\n")
        if finished:
            return
        owner = ownership.owner(run_dir)
        if (owner is None or not owner.is_alive()) and ownership.may_adopt(run_dir):
            starting.start(run_dir, supervise)
        ownership.wake(run_dir)
        if heard:  # that a connection stands says little: it may lead nowhere any more
            with contextlib.suppress(OSError):
                renew(run_dir.watched)
        watcher.wait(BEAT_S)


def list_files(root: Path) -> None:
    """Print [name, size in bytes, time of change in ns, mode] of each regular file below *root*, JSON, one a line."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            try:
                stat = os.lstat(path)
            except OSError:
                continue  # replaced just now
            if os.path.isfile(path) and not os.path.islink(path):
                print(json.dumps([os.path.relpath(path, root), stat.st_size, stat.st_mtime_ns, stat.st_mode & 0o777]))


def tail(root: Path, offsets: Mapping[str, int]) -> None:
    """Print what files of *root* hold from their offsets on, as they grow: a JSON line [name, length], then the bytes.

    Ends when the run is finished and all is told.
    """
    run_dir = RunDir(root)
    watcher = Watcher()
    watcher.add(root)
    at: Dict[str, int] = {}
    for name, offset in offsets.items():
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise Refused(f"{name!r} lies outside of the run")
        at[name] = offset
        if (root / name).parent.is_dir():
            watcher.add((root / name).parent)
    journal = 0
    finished = False
    while True:
        grown = False
        for name in at:
            block = _block(root / name, at[name])
            if block:
                at[name] += len(block)
                grown = True
                sys.stdout.buffer.write(json.dumps([name, len(block)]).encode() + b"\n" + block)
        if not grown:
            if finished:
                break
            found, journal = read_events(run_dir.journal, journal)
            finished = any(event.kind == events.RUN_FINISHED for event in found)
            _tell("\n")
            if not finished:
                watcher.wait(BEAT_S)
    sys.stdout.buffer.flush()


def _block(path: Path, offset: int) -> bytes:
    try:
        with open_regular(path) as file:
            file.seek(offset)
            return file.read(_BLOCK)
    except OSError:
        return b""  # not there yet


def say(text: str) -> None:
    """Write to whoever asked, at once; where they have gone, nobody needs us any more."""
    sys.stdout.buffer.write(text.encode())
    try:
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os._exit(0)


def _tell(text: str) -> bool:
    """Say something to one who says no more than that they listen; tell whether they just did.

    An end of what we read is the end of the connection.
    """
    say(text)
    if not select.select([0], [], [], 0)[0]:
        return False
    if not os.read(0, _BLOCK):
        os._exit(0)
    return True
