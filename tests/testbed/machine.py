"""What the test bed asks of this machine: its programs, its processes, keys."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Optional

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NAMESPACES = Path("/run/netns")  # where `ip netns` keeps them
WAIT_LIMIT_S = 60.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # what sshd gives to root
PROGRAMS = {
    "bash": "bash", "ip": "iproute2", "tc": "iproute2", "ping": "iputils-ping", "python3": "python3",
    "unshare": "util-linux", "nsenter": "util-linux", "setsid": "util-linux", "flock": "util-linux",
    "mount": "mount", "ssh": "openssh-client", "sshd": "openssh-server",
}  # fmt: skip


class BedError(Exception):
    """The test bed cannot do what it was asked for."""


def unavailable() -> Optional[str]:
    """Return why this machine can have no test bed, or None if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "the test bed makes network namespaces, which takes root on Linux"
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program, path=PATH)})
    if missing:
        return f"the test bed needs more programs: apt-get install {' '.join(missing)}"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return f"the test bed cannot make namespaces: {tried.stderr.strip()}" if tried.returncode else None


def processes_of(namespaces: Sequence[str]) -> "dict[str, list[int]]":
    """Return the pids in each network namespace."""
    found: "dict[str, list[int]]" = {name: [] for name in namespaces}
    by_place = {inode(str(NAMESPACES / name)): name for name in namespaces}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            name = by_place.get(inode(f"/proc/{pid}/ns/net"))
        except OSError:  # ended meanwhile, or a zombie
            continue
        if name:
            found[name].append(int(pid))
    return found


def inode(path: str) -> "tuple[int, int]":
    status = os.stat(path)
    return status.st_dev, status.st_ino


def pids_of(pid: int) -> "list[int]":
    """Return the pids that a process has, from our pid namespace inwards."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [int(word) for line in lines if line.startswith("NSpid:") for word in line.split()[1:]]


def stat_of(pid: int) -> "list[str]":
    """Return the fields of /proc/PID/stat that follow the name: state, parent, ...; [] when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def state_of(pid: int) -> str:
    return (stat_of(pid) or ["X"])[0]


def started_at(pid: int) -> Optional[str]:
    """Return when a live process was started, in clock ticks since boot; None if there is none of that pid."""
    stat = stat_of(pid)
    return stat[19] if stat and stat[0] not in "ZX" else None


def send(number: int, pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def end(pids: Sequence[int]) -> None:
    """Kill processes and return when they are gone."""
    send(signal.SIGKILL, pids)
    wait_until(lambda: all(state_of(pid) in "ZX" for pid in pids), f"processes {pids} to end")


def answers(address: str) -> bool:
    """Tell whether an sshd there greets who connects."""
    try:
        with socket.create_connection((address, 22), timeout=1.0) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def wait_until(what: "Callable[[], bool]", name: str) -> None:
    """Return when *what*() is true; raise BedError after WAIT_LIMIT_S."""
    deadline = time.monotonic() + WAIT_LIMIT_S
    while not what():
        if time.monotonic() > deadline:
            raise BedError(f"waited {WAIT_LIMIT_S:.0f} s in vain for {name}")
        time.sleep(0.01)


def run(*argv: str, input: Optional[str] = None) -> str:
    """Return what a program prints. Raises BedError with its words if it fails."""
    done = subprocess.run(argv, input=input, capture_output=True, text=True, env={"PATH": PATH})
    if done.returncode:
        raise BedError(f"`{' '.join(argv)}` failed: {done.stderr.strip()}")
    return done.stdout


def ip(lines: Sequence[str], namespace: Optional[str] = None) -> None:
    run("ip", *(["-netns", namespace] if namespace else []), "-batch", "-", input="\n".join(lines))


def key_pair() -> "tuple[str, str]":
    """Return a new private key, and its public key, as OpenSSH writes them."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.decode(), public.decode()
