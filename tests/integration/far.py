"""A launch over the hosts of a test bed, as its user types it, and what may be left on them afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Cli, processes_below
from tests.testbed.bed import Host, Testbed
from tests.testbed.machine import end

TELLS = """
import os, sys, time
for step in range(1, int(sys.argv[1]) + 1):
    print(f"epoch: 1 step: {step}, loss is {1 / step}", flush=True)
    time.sleep(0.2)
"""
# For `python_in_which`: what it does where it is told to begin a run.
BEGINS = """
import os, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from orchestrator.supervisor import serving
serving.start_run = lambda *_: {does}
"""
# A machine's own devices cannot be had twice: in front of what is in /dev, files of these names.
_DEVICES = """
mkdir -p /run/upper /run/work && mount -t overlay dev -o lowerdir=/dev,upperdir=/run/upper,workdir=/run/work /dev
mkdir -p /dev/shm && mount -t tmpfs shm /dev/shm && cd /dev && touch {names}
"""
_ENDING_S = 10.0  # what a host may need to notice that a connection has ended


class Far:
    """A launch over some of the test hosts."""

    def __init__(self, cli: Cli, bed: Testbed) -> None:
        self.cli, self.bed = cli, bed
        self.before = {host: set(bed.processes(host)) for host in bed.hosts}

    def hosts(self, count: int = 2, **more: Any) -> str:
        """Write a hosts.yaml of the first *count* hosts, each with *more*; return its name.

        What a host alone has is given under its name: `node2={"port": 23}`. None takes a field away.
        """
        own = {name: more.pop(name) for name in list(more) if name.startswith("node")}
        document = yaml.safe_load(self.bed.hosts_yaml.read_text())
        entries = [{**one, **more, **own.get(one["name"], {})} for one in document["hosts"][:count]]
        document["hosts"] = [{key: value for key, value in one.items() if value is not None} for one in entries]
        path = self.cli.folder / "hosts.yaml"
        path.write_text(yaml.safe_dump(document))
        return str(path)

    def launch(self, *words: str, hosts: int = 2, **options: Any) -> "subprocess.CompletedProcess[str]":
        return self.cli("launch", "--hosts", self.hosts(hosts), "--name", "r", *words, **options)

    def program(self, text: str = TELLS) -> "list[str]":
        (self.cli.folder / "train.py").write_text(text)
        return [sys.executable, "train.py"]

    def python_in_which(self, changed: str) -> str:
        """Make a Python on node2 in which some lines run before what it is told to; return its path."""
        lines = [*changed.splitlines(), "import os, runpy, sys", "sys.argv = sys.argv[1:]"]
        lines += [
            "sys.path.insert(0, os.path.dirname(sys.argv[0]))",
            "runpy.run_path(sys.argv[0], run_name='__main__')",
        ]
        script = f'#!/bin/sh\nshift\nexec {sys.executable} -S /tmp/first.py "$@"\n'
        for path, text in (("/tmp/first.py", "\n".join(lines)), ("/tmp/python", script)):
            self.bed.exec(self.bed.hosts[1], ["sh", "-c", f"cat > {path}; chmod 755 {path}"], input=text)
        return "/tmp/python"

    def controllers(self) -> "list[int]":
        mine = processes_below(self.cli.folder)
        return [pid for pid, command in mine.items() if command.startswith("ascendrun: controller of")]

    def kill_controller(self) -> None:
        (controller,) = self.controllers()
        os.kill(controller, signal.SIGKILL)

    def events(self) -> "list[dict[str, Any]]":
        return self.cli.events("r")

    def steps_told(self) -> int:
        return sum(event["kind"] == "progress" for event in self.events())


def give_devices(bed: Testbed, host: Host, count: int) -> None:
    """Have *host* look as if it had *count* Ascend devices, until it is booted again."""
    names = " ".join(f"davinci{number}" for number in range(count))
    bed.exec(host, ["sh", "-ec", _DEVICES.format(names=names)])


@pytest.fixture
def far(cli: Cli, testbed: Testbed) -> "Iterator[Far]":
    """The command line of a user who may log in to the test hosts; afterwards nothing of ours is left on any."""
    yield from far_on(cli, testbed)


def far_on(cli: Cli, bed: Testbed) -> "Iterator[Far]":
    """Do as the fixture `far` does, on any test bed."""
    cli.environment["HOME"] = str(bed.home)
    far = Far(cli, bed)
    yield far
    for pid in far.controllers():
        os.kill(pid, signal.SIGKILL)
    bed.heal()
    left = nothing_left(bed, far.before)
    for host in bed.hosts:
        if left:  # the next test shall not see it
            end([pid for pid in set(bed.processes(host)) - far.before[host] if _is_new(_command(pid))])
        bed.exec(host, ["sh", "-c", "rm -rf /srv/work/* /srv/work/.ascendrun"])
    assert not left, f"left on the hosts: {left}"


def nothing_left(bed: Testbed, before: "dict[Host, set[int]]") -> "list[str]":
    """Return what runs or listens on any host now and did not *before*, once what is ending has had its time."""

    def look() -> "list[str]":
        found = []
        for host in bed.hosts:
            for pid in sorted(set(bed.processes(host)) - before[host]):
                command = _command(pid)
                if _is_new(command):
                    found.append(f"{host.name}: {command}")
            ports = bed.exec(host, ["ss", "-Hltun"]).stdout.splitlines()
            found += [f"{host.name} listens: {line}" for line in ports if line.split()[4].rpartition(":")[2] != "22"]
        return found

    deadline = time.monotonic() + _ENDING_S
    while (left := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _is_new(command: str) -> bool:
    """Tell whether a command that did not run before is none of those that a host boots with."""
    return bool(command) and not any(word in command for word in ("boot.sh", "sshd: /usr/sbin/sshd [listener]"))


def _command(pid: int) -> str:
    """Return the words of a live process of ours to see; nothing for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def whole(events: "list[dict[str, Any]]") -> None:
    """Check that no event of any host is missing, doubled or out of order."""
    for host in {event["host"] for event in events if "of_host" in event}:
        numbers = [event["of_host"] for event in events if event["host"] == host]
        assert numbers == list(range(1, len(numbers) + 1)), f"{host}: {numbers}"
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
