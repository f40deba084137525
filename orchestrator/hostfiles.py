"""Lists of hosts as people have them: MPI and DeepSpeed hostfiles, Slurm node lists, one address a line.

Sources: Open MPI and MPICH hostfile formats, DeepSpeed's "resource configuration", Slurm's `SLURM_JOB_NODELIST`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

from orchestrator.errors import SpecError, nearest

MOST_HOSTS = 65_536
_LONGEST_LIST = 65_536
_MOST_BRACKETS = 8
_LEAST_PORT = 22  # in `node1:8` MPICH means 8 processes; no SSH server listens below its own port
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
# What a line may say beside the host. Of max_slots nothing follows: no device ever takes a second rank.
_SETTINGS = ("slots", "max_slots", "max-slots")


@dataclass(frozen=True)
class Target:
    """What `user@address:port` says."""

    address: str
    user: Optional[str] = None
    port: Optional[int] = None


@dataclass(frozen=True)
class Line:
    """One host of a list, and the line that names it, from 1."""

    target: Target
    slots: Optional[int]  # ranks that it takes: one a device
    number: int


def parse_target(text: str) -> Target:
    """Return the parts of `address`, `user@address`, `address:port`, `[IPv6]:port` or a bare IPv6 address."""
    before, at, rest = text.rpartition("@")
    if at and not before:
        raise SpecError(f"'{text}': the user before '@' is missing")
    match = re.fullmatch(r"\[([^\[\]]+)\](?::(.*))?", rest) or (
        re.fullmatch(r"([^:]*):([^:]*)", rest) if rest.count(":") == 1 else None
    )
    address, port = (match.group(1), match.group(2)) if match else (rest, None)
    if not address:
        raise SpecError(f"'{text}': the address is missing")
    if port is None:
        return Target(address, before or None)
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not 1 <= int(port) <= 65_535:
        raise SpecError(f"'{text}': '{port}' is no port (1 to 65535)")
    return Target(address, before or None, int(port))


def parse_lines(text: str, source: str) -> "Iterator[Line]":
    """Yield each host of a hostfile, in order; raises SpecError naming *source* and line.

    A line is hosts between commas, each `[user@]address[:port]` or a Slurm list such as `node[01-16,20]`, then
    perhaps `slots=N`. `#` begins a comment.
    """
    count = 0
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            slots = _slots(words[1:])
            if len(words[0]) > _LONGEST_LIST:
                raise SpecError(f"a list of hosts that is longer than {_LONGEST_LIST:,} letters")
            for part in _split_at_commas(words[0]):
                for name in expand(part):
                    count += 1
                    if count > MOST_HOSTS:
                        raise SpecError(f"more than {MOST_HOSTS:,} hosts")
                    yield Line(_target_of_line(name), slots, number)
        except SpecError as exc:
            raise SpecError(f"{source}:{number}: {exc}") from exc


def expand(text: str) -> "Iterator[str]":
    """Yield what a Slurm node list such as `rack[1-2]-node[01-16,20]` names, in its order; leading zeros are kept.

    Brackets that hold no numbers are left: those of an IPv6 address.
    """
    matches = [found for found in _BRACKETS.finditer(text) if ":" not in found.group(1)]
    if len(matches) > _MOST_BRACKETS:
        raise SpecError(f"'{text[:80]}…': more than {_MOST_BRACKETS} brackets in one name")
    match = matches[0] if matches else None
    if match is None:
        yield text
        return
    for number in _numbers(match.group(1), text):
        for rest in expand(text[match.end() :]):
            yield text[: match.start()] + number + rest


def _numbers(ranges: str, text: str) -> "Iterator[str]":
    for part in ranges.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part.strip(), re.ASCII)
        if match is None:
            raise SpecError(f"'{text}': '{part}' is neither a number nor a range; write node[01-16,20]")
        first, last = match.group(1), match.group(2) or match.group(1)
        if int(last) < int(first):
            raise SpecError(f"'{text}': the range {part} runs backwards")
        if int(last) - int(first) >= MOST_HOSTS:
            raise SpecError(f"'{text}': the range {part} is more than {MOST_HOSTS:,} hosts")
        for number in range(int(first), int(last) + 1):
            yield str(number).zfill(len(first))


def _split_at_commas(text: str) -> "list[str]":
    """Split at the commas that stand outside of brackets."""
    depth, parts = 0, [""]
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if depth not in (0, 1):
            raise SpecError(f"'{text}': a bracket too many")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    if depth:
        raise SpecError(f"'{text}': a bracket is not closed")
    if "" in parts:
        raise SpecError(f"'{text}': there is nothing between two commas")
    return parts


def _target_of_line(text: str) -> Target:
    target = parse_target(text)
    if target.port is not None and target.port < _LEAST_PORT:
        raise SpecError(
            f"'{text}': port {target.port}, or {target.port} processes as MPICH has it? "
            f"Write `{target.address} slots={target.port}`, or a port from {_LEAST_PORT}"
        )
    return target


def _slots(words: "list[str]") -> Optional[int]:
    slots = None
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise SpecError(f"'{word}': one host a line, then perhaps slots=8")
        if key not in _SETTINGS:
            raise SpecError(f"unknown setting '{key}'{nearest(key, _SETTINGS)}")
        if not re.fullmatch(r"\d{1,4}", value, re.ASCII) or not 1 <= int(value) <= 1024:
            raise SpecError(f"{key}={value}: give a number of devices from 1 to 1024")
        if key == "slots":
            slots = int(value)
    return slots
