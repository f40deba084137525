"""What runs of us on a far host, from one archive: `python ARCHIVE COMMAND ...`, answers on standard output.

    launch              say what this host is and has, for what a line of standard input asks after; where another line
                        comes, make the run folder from it, start its supervisor, and go on as `follow`
    follow FOLDER SEQ   the journal after event SEQ as it grows; a supervisor that was killed gets a successor
    whole FOLDER        for each file that standard input tells of, what is wrong with it, or null
    strike FOLDER PROCESS SIGNAL   for drills: send a signal to a rank or to the supervisor; print its pid
    files FOLDER        the regular files of a run, one a line
    tail FOLDER         the files that standard input names, from the offsets it gives, as they grow
    leftovers           the processes that earlier runs left here
    checkup             for `doctor`: what this host is and has, and what it makes of its peers; checkup.py has the talk
    pair                for `doctor --collective`: say what this host is as `launch` does, then be a rank of two
    end GRACE           end those of them whose pid and start standard input names; the pids that cannot be ended

What cannot be done is said in the last line of standard error, with exit code 1. Standard library only.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Optional

from orchestrator.supervisor import abandoned, machine, serving
from orchestrator.supervisor.process import Identity, Place
from orchestrator.supervisor.rundir import RunDir
from orchestrator.supervisor.strike import strike
from orchestrator.supervisor.whole import problem_of

_LEAST_FREE_BYTES = 16 << 20


def main(words: "list[str]") -> int:
    command, *rest = words or [""]
    try:
        if command == "launch":
            launch()
        elif command == "follow":
            serving.follow(RunDir(Path(rest[0])), int(rest[1]))
        elif command == "whole":
            json.dump([problem_of(one) for one in json.load(sys.stdin)], sys.stdout)
        elif command == "files":
            serving.list_files(Path(rest[0]))
        elif command == "tail":
            serving.tail(Path(rest[0]), json.loads(sys.stdin.readline()))
        elif command == "strike":
            print(strike(RunDir(Path(rest[0])), rest[1], int(rest[2])))
        elif command == "checkup":
            from orchestrator import checkup  # 10 ms that no run need spend

            checkup.serve()
        elif command == "pair":
            from orchestrator import allreduce

            facts = look(json.loads(sys.stdin.buffer.readline()))
            serving.say(json.dumps(facts) + "\n")
            told = sys.stdin.buffer.readline()
            if told:
                allreduce.take_part(json.loads(told))
        elif command == "leftovers":
            json.dump(abandoned.find(), sys.stdout)
        elif command == "end":
            json.dump(
                sorted(abandoned.end([Identity(*one) for one in json.load(sys.stdin)], float(rest[0]))), sys.stdout
            )
        else:
            sys.exit(__doc__)
    except serving.Refused as exc:
        print(exc, file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"{exc.filename or 'input/output'}: {exc.strerror or exc}", file=sys.stderr)
        return 1
    return 0


def launch() -> None:
    """Say what this host is, and begin a run here once told to. Raises serving.Refused or OSError."""
    facts = look(json.loads(sys.stdin.buffer.readline()))
    serving.say(json.dumps(facts) + "\n")
    told = sys.stdin.buffer.readline()
    if told:  # else it is not to be, for some other host's sake
        run_dir = RunDir(Path(facts["folder"]))
        serving.start_run(run_dir, json.loads(told))
        serving.say("\n")  # it has begun
        serving.follow(run_dir, 0)


def look(asked: "Mapping[str, Any]") -> "dict[str, Any]":
    """Return what this host is.

    *asked*: folder (of the run), dataset, layout, modules, ports (how many), shared, program, environment (names), and
    glance (None, or what `checkup.glance` takes beside the folder).
    """
    folder = Path(os.path.expanduser(asked["folder"]))
    return {
        "executable": sys.executable,
        "hostname": socket.gethostname(),
        "place": Place.here(),
        "time": time.time(),
        "address": _own_address(),
        "cpus": sorted(os.sched_getaffinity(0)),
        "cpu_flags": machine.cpu_flags(),
        "ascend": machine.ascend_device_ids(),
        "folder": str(folder),
        "folder_problem": _folder_problem(folder),
        "versions": {name: _version(name) for name in asked["modules"]},
        "dataset_problem": _dataset_problem(asked.get("dataset"), asked.get("layout")),
        "program_problem": _program_problem(asked.get("program")),
        "shared": bool(asked.get("shared")) and os.path.exists(asked["shared"]),
        "ports": machine.free_ports(asked["ports"], ""),
        "environment": {name: os.environ[name] for name in asked.get("environment", ()) if name in os.environ},
        "glanced": _glance(folder, asked.get("glance")),
    }


def _glance(folder: Path, asked: "Optional[Mapping[str, Any]]") -> "Optional[dict[str, Any]]":
    if not asked:
        return None
    from orchestrator import checkup

    try:
        return checkup.glance(folder, **asked)
    except OSError:
        return None  # a host that does not let itself be looked at may run the job all the same


def read_facts(line: bytes) -> "dict[str, Any]":
    """Return what `look` said, after its journey through JSON. Raises ValueError for anything else."""
    try:
        facts = json.loads(line)
    except RecursionError as exc:
        raise ValueError("nested too deep") from exc
    if not isinstance(facts, dict):
        raise ValueError(f"{facts!s:.80}")
    for name, fits in _FACTS.items():
        if name not in facts or not fits(facts[name]):
            raise ValueError(f"{name} is {facts.get(name)!s:.80}")
    return facts


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_text_or_none(value: object) -> bool:
    return value is None or _is_text(value)


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)


# What may be believed of a host that is broken, or in somebody else's hands.
_FACTS: "dict[str, Callable[[Any], bool]]" = {
    "executable": _is_text,
    "place": lambda value: isinstance(value, list),
    "time": lambda value: isinstance(value, (int, float)) and abs(value) < 1e12,
    "address": _is_text_or_none,
    "cpus": lambda value: _are_numbers(value) and value != [],
    "cpu_flags": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "ascend": _are_numbers,
    "folder": lambda value: _is_text(value) and os.path.isabs(value),
    "folder_problem": _is_text_or_none,
    "versions": lambda value: isinstance(value, dict) and all(map(_is_text_or_none, value.values())),
    "dataset_problem": _is_text_or_none,
    "program_problem": _is_text_or_none,
    "shared": lambda value: isinstance(value, bool),
    "environment": lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
    "ports": lambda value: _are_numbers(value) and len(value) == 2 and all(0 < one < 65_536 for one in value),
}


def _own_address() -> "Optional[str]":
    """Return the address by which SSH reached this host, which others of its network can reach too."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    return words[2] if len(words) == 4 else None


def _folder_problem(folder: Path) -> "Optional[str]":
    """Say why a run folder cannot be made there; None: it can."""
    if os.path.lexists(folder):
        return f"{folder} exists already"
    parent = folder.parent
    while not parent.exists():
        parent = parent.parent
    if not os.access(parent, os.W_OK | os.X_OK) or not parent.is_dir():
        return f"{parent} cannot be written"
    free = shutil.disk_usage(parent).free
    if free < _LEAST_FREE_BYTES:
        return f"the disk of {parent} is full ({free / 1e6:.1f} MB free)"
    return None


def _version(name: str) -> "Optional[str]":
    machine.find_packages()
    import importlib.metadata  # 40 ms, for jobs that ask

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _dataset_problem(dataset: "Optional[str]", layout: "Optional[str]") -> "Optional[str]":
    if dataset is None:
        return None
    if layout is None:
        return None if os.path.exists(dataset) else f"{dataset}: no such file or folder"
    from orchestrator.datasets import check_dataset  # 25 ms, for jobs that have one
    from orchestrator.errors import AscendrunError

    try:
        check_dataset(layout, Path(dataset))
    except AscendrunError as exc:
        return str(exc)
    return None


def _program_problem(program: Optional[str]) -> Optional[str]:
    """Say why a program cannot be run here; one that is named from its own folder comes along with it."""
    if program is None or (os.sep in program and not os.path.isabs(program)) or shutil.which(program):
        return None
    where = "" if os.sep in program else f" in its PATH ({os.environ.get('PATH', '')})"
    return f"there is no program {program}{where}; `setup:` in hosts.yaml can bring it there"
