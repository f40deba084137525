"""What earlier runs left behind, on this machine or on many: found, and ended. supervisor/abandoned.py says what is."""

from __future__ import annotations

import json
from typing import Optional, Union

from orchestrator.errors import HostError
from orchestrator.farhosts import FarHost, keep
from orchestrator.inventory import HostEntry
from orchestrator.supervisor import abandoned
from orchestrator.supervisor.abandoned import Leftover
from orchestrator.transport.base import Transport
from orchestrator.transport.fanout import Fleet

THIS_MACHINE = "this machine"
_ASKING_S = 60.0


def find(fleet: Optional[Fleet] = None) -> "dict[str, Union[list[Leftover], HostError]]":
    """Return what earlier runs left, by host: on this machine, or on those of *fleet*."""
    if fleet is None:
        return {THIS_MACHINE: abandoned.find()}
    return fleet.each(_find_on)


def end(
    found: "dict[str, list[Leftover]]", grace_s: float, fleet: Optional[Fleet] = None
) -> "dict[str, Union[set[int], HostError]]":
    """End what find() returned of each host: SIGTERM, and SIGKILL after *grace_s*. Return what cannot be ended.

    What is no leftover any more by then is let be.
    """
    if fleet is None:
        chosen = [one.identity for one in found[THIS_MACHINE]]
        return {THIS_MACHINE: abandoned.end(chosen, grace_s)}

    def end_on(entry: HostEntry, transport: Transport) -> "set[int]":
        chosen = [one.identity for one in found.get(entry.name, [])]
        if not chosen:
            return set()
        return set(json.loads(_ask(entry, transport, "end", str(grace_s), told=json.dumps(chosen), more_s=grace_s)))

    return fleet.each(end_on)


def _find_on(entry: HostEntry, transport: Transport) -> "list[Leftover]":
    return [Leftover(*one) for one in json.loads(_ask(entry, transport, "leftovers"))]


def _ask(entry: HostEntry, transport: Transport, *command: str, told: str = "", more_s: float = 0.0) -> bytes:
    """Return what a command of `farside` answers on a host. Raises HostError."""
    from orchestrator.attempts import CACHE, WORK_FOLDER  # a machine alone needs none of this
    from orchestrator.bundle import supervisor_archive
    from orchestrator.hosts import PYTHON

    (archive,) = keep(transport, f"{entry.work_folder or WORK_FOLDER}/{CACHE}", [supervisor_archive()])
    words = FarHost(entry, entry.python or PYTHON, archive, "").words(*command)
    done = transport.run(words, input=told.encode(), timeout_s=_ASKING_S + more_s)
    if done.code != 0:
        raise HostError(f"{entry.name}: {done.last_words()}")
    return done.stdout
