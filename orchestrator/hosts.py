"""The hosts of a user: read from files and options, and asked whether they answer and what they offer."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Optional

from orchestrator.bundle import OLDEST_PYTHON
from orchestrator.errors import HostError, SpecError
from orchestrator.inventory import HostEntry, Inventory, spell_ids
from orchestrator.textfiles import MARK, read_text
from orchestrator.transport import fanout
from orchestrator.transport.base import Transport, with_setup

PYTHON = "python3"  # of a host whose entry names none
_MOST_BYTES = 16 << 20
_LOOK_TIMEOUT_S = 30.0

# Prints what a host is, a fact a line. $1: its Python.
_LOOK = """
echo "hostname $(uname -n)"
echo "cpus $(getconf _NPROCESSORS_ONLN)"
for file in /dev/davinci[0-9]*; do [ ! -e "$file" ] || echo "device ${file#/dev/davinci}"; done
"$1" -c 'import sys; print("python %d.%d.%d" % sys.version_info[:3])'
"""


@dataclass(frozen=True)
class HostReport:
    """What became of asking one host. *problem* None: it answers, and nothing is in the way of a run."""

    entry: HostEntry
    problem: Optional[str] = None
    address: Optional[str] = None  # what was dialled: user@address:port
    connect_s: Optional[float] = None
    answer_s: Optional[float] = None  # for one program on the open connection
    hostname: Optional[str] = None
    python: Optional[str] = None
    cpus: Optional[int] = None
    device_ids: Optional[tuple[int, ...]] = None  # Ascend's there; of the hosts file where it names them


def load_inventory(file: Optional[str], targets: Sequence[str] = ()) -> Inventory:
    """Return the hosts of *file* and then those of `--host`. Raises SpecError."""
    entries: "tuple[HostEntry, ...]" = ()
    if file is not None:
        entries = Inventory.parse(read_text(file, _MOST_BYTES, "list of hosts").removeprefix(MARK), file).entries
    if targets:
        entries += Inventory.of_targets(targets).entries
    if not entries:
        raise SpecError("name a hosts file or --host user@address:port")
    return Inventory(entries)


def this_machine() -> Inventory:
    """Return this machine alone, to be reached without SSH."""
    return Inventory((HostEntry(socket.gethostname(), "localhost"),))


def ask_all(fleet: fanout.Fleet) -> "list[HostReport]":
    """Ask every host what it is; in the order of the inventory."""
    connected = {one.entry.name: one for one in fleet.connected}
    reports = []
    for (entry, _), told in zip(fleet.members, fleet.each(ask).values()):
        if isinstance(told, HostError):
            told = HostReport(entry, problem=str(told).split(f"{entry.name}: ", 1)[-1])
        if entry.name in connected:
            one = connected[entry.name]
            told = replace(told, connect_s=one.connect_s, address=one.transport.address)
        reports.append(told)
    return reports


def ask(entry: HostEntry, transport: Transport) -> HostReport:
    """Ask one host. Raises HostError where it does not answer."""
    python = entry.python or PYTHON
    began = time.monotonic()
    done = transport.run(with_setup(entry.setup, ["sh", "-c", _LOOK, "sh", python]), timeout_s=_LOOK_TIMEOUT_S)
    answer_s = time.monotonic() - began
    facts: "dict[str, list[str]]" = {}
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        key, _, value = line.partition(" ")
        facts.setdefault(key, []).append(value)
    found = sorted(int(number) for number in facts.get("device", []) if number.isdecimal())
    wanted = None if entry.devices is None else [device.device_id for device in entry.devices]
    version = next(iter(facts.get("python", [])), None)
    cpus = next(iter(facts.get("cpus", [])), "")
    problem = None
    if version is None:
        problem = f"no Python to start there with {python}: {done.last_words()}; name one as `python:` in a hosts file"
    elif tuple(int(part) for part in version.split(".")[:2]) < OLDEST_PYTHON:
        problem = f"{python} is {version} there; name one of 3.9 or later as `python:` in a hosts file"
    elif wanted is not None and found and (missing := [number for number in wanted if number not in found]):
        problem = f"it has no device {spell_ids(missing)}, which the hosts file names; it has {spell_ids(found)}"
    return HostReport(
        entry,
        problem,
        answer_s=answer_s,
        hostname=next(iter(facts.get("hostname", [])), None),
        python=version,
        cpus=int(cpus) if cpus.isdecimal() else None,
        device_ids=tuple(wanted if wanted is not None else found) or None,
    )
