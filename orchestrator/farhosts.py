"""The far hosts of a run: who they are, how they are reached again, and what they are asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

from orchestrator.bundle import Archive
from orchestrator.errors import HostError, RunNotFoundError
from orchestrator.inventory import Device, HostEntry
from orchestrator.supervisor.rundir import RunDir
from orchestrator.supervisor.serving import NO_RUN
from orchestrator.transport.base import Frames, Transport, with_setup
from orchestrator.transport.fanout import Fleet, Roads, open_all

# Makes the folder $1 (from the home where it begins with ~/) for us alone; prints where it is, and if $2, $3 are there
_FIND = """
case $1 in '~/'*) folder=$HOME/${1#'~/'} ;; *) folder=$1 ;; esac
mkdir -p -- "$folder" && chmod 700 -- "$folder" && cd -- "$folder" && pwd -P
for name in "$2" "$3"; do if [ -d "$name" ]; then echo there; else echo missing; fi; done
"""
# Unpacks standard input as the folder $1/$2, in one step.
_UNPACK = """
umask 077; part=$1/.$2.$$; mkdir -- "$part" || exit 1
said=$(tar -xzf - -C "$part" 2>&1) || {
    free=$(df -Pk "$part" | awk 'END { print $4 }'); rm -rf -- "$part"
    echo "$(echo "$said" | head -n 1) ($free kB are free)" >&2; exit 1
}
mv -T -- "$part" "$1/$2" 2> /dev/null || { rm -rf -- "$part"; [ -d "$1/$2" ]; }
"""


class NoRunError(HostError):
    """A host answers, and has no part of the run."""


@dataclass(frozen=True)
class FarHost:
    """A host on which part of a run lives."""

    entry: HostEntry
    python: str  # of our supervisor there
    archive: str  # the folder of our supervisor there
    root: str  # path of the run folder there
    below: str = ""  # where in the run folder here the same lies: `attempts/2`
    folders: tuple[str, ...] = ()  # work folders of its processes, below root

    @property
    def name(self) -> str:
        return self.entry.name

    def words(self, *command: str) -> "list[str]":
        """Return the words that run a command of `farside` there."""
        # By its file: a folder would have Python import what finds modules in archives. For -S see `find_packages`.
        return with_setup(self.entry.setup, [self.python, "-S", f"{self.archive}/__main__.py", *command])

    def ask(self, transport: Transport, command: str, told: Any = None, *, timeout_s: float = 60.0) -> bytes:
        """Return what a command answers. Raises HostError with its last word where it refuses."""
        data = b"" if told is None else json.dumps(told).encode()
        done = transport.run(self.words(command, self.root), input=data, timeout_s=timeout_s)
        if done.code != 0:
            raise HostError(f"{self.name}: {done.last_words()}")
        return done.stdout

    def follow(self, transport: Transport, after: int) -> Line:
        return Line(self, transport, ["follow", self.root, str(after)])

    def stop(self, transport: Transport, grace_s: float, by: str) -> None:
        """Ask the supervisor there to end its ranks. Raises HostError."""
        request = json.dumps({"grace_s": grace_s, "by": by}).encode()
        transport.put(request, str(RunDir(Path(self.root)).stop_request), 0o644)


class Line:
    """A command of `farside` that we talk with while it runs."""

    def __init__(self, host: FarHost, transport: Transport, command: "Sequence[str]") -> None:
        """Begin the command. Raises HostError."""
        self.transport = transport
        self._host = host
        self._frames = Frames(transport.stream(host.words(*command)))

    @property
    def name(self) -> str:
        """The name of its host."""
        return self._host.name

    def say(self, told: "Mapping[str, Any]") -> None:
        self._frames.stream.write(json.dumps(told).encode() + b"\n")

    def nod(self) -> None:
        """Say that we listen."""
        self._frames.stream.write(b"\n")

    def hear(self, timeout_s: float) -> bytes:
        """Return its next line. Raises HostError where it is silent for *timeout_s*, or ends (with its last word)."""
        try:
            line = self._frames.line(timeout_s)
            if line is not None:
                return line
            ended = self._frames.stream.wait(timeout_s)
        except TimeoutError:
            raise HostError(f"{self._host.name}: silent for {timeout_s:g} s") from None
        except ValueError as exc:
            raise HostError(f"{self._host.name}: says {exc}") from exc
        name, words = self._host.name, ended.last_words()
        if ended.code == NO_RUN:
            raise NoRunError(f"{name}: {words}")
        if ended.code in (126, 127):  # a shell's words for a program that cannot be run, or is not there
            raise HostError(f"{name}: cannot start {self._host.python}: {words}; name one as `python:` in a hosts file")
        raise HostError(f"{name}: {words}")

    def close(self) -> None:
        self._frames.stream.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class FarHosts:
    """All hosts of a run, the way to them, and what it takes to plan again. `hosts.json` in the run folder holds it."""

    hosts: tuple[FarHost, ...]  # of this attempt
    ssh_config: Optional[str] = None
    earlier: tuple[FarHost, ...] = ()  # of earlier attempts
    inventory: tuple[HostEntry, ...] = ()  # spare ones too
    request: Mapping[str, Any] = field(default_factory=dict)  # the fields of launch.LaunchRequest

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def of(cls, run_dir: RunDir) -> "Optional[FarHosts]":
        """Return the far hosts of a run; None for one that lives here. Raises RunNotFoundError for a damaged record."""
        try:
            stored = json.loads(run_dir.hosts.read_bytes())
            return cls(
                tuple(_far_host(one) for one in stored["hosts"]),
                stored["ssh_config"],
                tuple(_far_host(one) for one in stored.get("earlier", ())),
                tuple(_entry(one) for one in stored.get("inventory", ())),
                stored.get("request", {}),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError) as exc:
            raise RunNotFoundError(f"{run_dir.hosts}: damaged, or of a newer ascendrun ({exc})") from exc

    def connect(self) -> Fleet:
        """Connect to all; those that cannot be reached stay in the fleet as HostErrors."""
        entries = {host.name: host.entry for host in (*self.hosts, *self.earlier)}
        return open_all(list(entries.values()), ssh_config=self._ssh_config())

    def roads(self) -> Roads:
        """Return what dials them one by one."""
        return Roads(self._ssh_config())

    def _ssh_config(self) -> Optional[Path]:
        return Path(self.ssh_config) if self.ssh_config else None

    def by_name(self) -> "dict[str, FarHost]":
        return {host.name: host for host in self.hosts}

    def of_name(self, name: str) -> "list[FarHost]":
        """Return what a host has of each attempt, oldest first."""
        return [host for host in (*self.earlier, *self.hosts) if host.name == name]


def _far_host(stored: "Mapping[str, Any]") -> FarHost:
    entry = _entry(stored["entry"])
    return FarHost(
        entry,
        stored["python"],
        stored["archive"],
        stored["root"],
        stored.get("below", ""),
        tuple(stored.get("folders", ())),
    )


def _entry(stored: "Mapping[str, Any]") -> HostEntry:
    entry = dict(stored)
    if entry.get("devices") is not None:
        entry["devices"] = tuple(Device(**one) for one in entry["devices"])
    entry["setup"] = tuple(entry.get("setup", ()))
    return HostEntry(**entry)


def keep(transport: Transport, folder: str, archives: "Sequence[Archive]") -> "list[str]":
    """Unpack one or two archives below *folder* of a host, unless they are there; return where. Raises HostError."""
    names = [archive.name for archive in archives]
    done = transport.run(["sh", "-c", _FIND, "sh", folder, names[0], names[-1]])
    said = done.stdout.decode("utf-8", "surrogateescape").rstrip("\n").rsplit("\n", 2)
    if done.code != 0 or len(said) != 3:
        raise HostError(f"{transport.host}: cannot keep files of ours in {folder}: {done.last_words()}")
    there, *found = said
    for archive, state in zip(archives, found):
        if state == "missing":
            put = transport.run(["sh", "-c", _UNPACK, "sh", there, archive.name], input=archive.content, timeout_s=300)
            if put.code != 0:
                raise HostError(f"{transport.host}: cannot keep files of ours in {there}: {put.last_words()}")
    return [f"{there}/{name}" for name in names]
