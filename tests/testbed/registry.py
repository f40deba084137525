"""The test beds of this machine: which there are, whose they are, and which number the next one gets."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.testbed.machine import BedError, run, started_at

REGISTRY = Path("/run/ascendrun-testbed")  # a folder for each test bed, named by its number; each is a file system
NUMBERS = range(64, 128)  # test bed N has the addresses 10.N.0.0/16


@contextlib.contextmanager
def registry() -> Iterator[None]:
    """Let nobody else make or remove a test bed meanwhile."""
    REGISTRY.mkdir(exist_ok=True)
    with (REGISTRY / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def owners() -> "dict[int, Any]":
    """Return each test bed's owner by its number; None for one that was killed before it had written it."""
    found: "dict[int, Any]" = {}
    for folder in REGISTRY.iterdir():
        if folder.name.isdigit():
            try:
                found[int(folder.name)] = json.loads((folder / "owner.json").read_text())
            except (OSError, ValueError):
                found[int(folder.name)] = None
    return found


def is_alive(record: Any) -> bool:
    """Tell whether the owner that `owners` returned is the same live process, or wants none (a standing test bed)."""
    if record is None or record["owner"] is None:
        return record is not None
    pid, started = record["owner"]
    return bool(started_at(pid) == started)


def free_number() -> int:
    """Return a number whose addresses and names nobody uses on this machine. Raises BedError."""
    routes = json.loads(run("ip", "-json", "-4", "route", "show", "table", "all"))
    taken = [ipaddress.ip_network(route["dst"]) for route in routes if route["dst"][:1].isdigit()]
    for number in NUMBERS:
        ours = ipaddress.ip_network(f"10.{number}.0.0/16")
        # A route to all of 10.0.0.0/8 or so leads elsewhere only as long as there is none that is narrower.
        free = not any(net.prefixlen >= 16 and net.overlaps(ours) for net in taken)
        if free and not (REGISTRY / str(number)).exists() and not Path(f"/sys/class/net/tb{number}").exists():
            return number
    raise BedError(f"no free network 10.N.0.0/16 for N from {NUMBERS[0]} to {NUMBERS[-1]}")
