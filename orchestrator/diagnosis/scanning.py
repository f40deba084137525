"""Finds the lines that rules know in the bytes of a log, at the speed of a search for a few words.

Nearly all lines of a log are of no interest. Lines with one of a few words of alarm are looked at; at the ends of a
log, where a run begins and dies, all of them are. Lines that differ in their digits only are soon passed over.
Memory is constant: a block, what lies shortly before and behind it, and a few sightings of each rule.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from orchestrator.diagnosis import places, tracebacks
from orchestrator.diagnosis.rules import Role, Rule, Rules
from orchestrator.diagnosis.tracebacks import Traceback

_ALARMS = (b"rror", b"ERR", b"xception", b"ailed", b"illed", tracebacks.HEAD.encode())
_CODE = re.compile(rb"E[A-Z1-9]\d{4}")  # of CANN's error codes
_OF_FAMILY = re.compile(rb"(?<![0-9A-Za-z_.])(?:E[A-Z1-9]|[1-5]\d)\d{4}(?![0-9A-Za-z_]|\.\d)")
_RAISED = b"Error: "  # in a line that may tell of an exception without its traceback
_PREFIX = 5  # bytes: no text of a rule is shorter
_SHAPE_LOOKS = 6  # lines of one shape are looked at so often before it counts as known to say nothing
_MOST_SHAPES = 20_000
_MOST_ALIKE = 400  # lines of one shape in one log that rules are tried on: more tell nothing new
_MOST_LINE = 4096  # bytes of a line that are looked at
_BEFORE = 16 << 10  # bytes kept to look back at
_AHEAD = 64 << 10  # bytes that must follow a line before it is looked at: a traceback ends there
_NEAR = 6 << 10
_SUMMARY = 1 << 10  # bytes that torchrun's summary takes for one rank
_KEPT = 4  # sightings of one rule by one rank that are kept
_MOST_KEPT = 1000  # sightings kept of one log
_MOST_TEXT = 1000  # characters kept of a line
_DIGITS = b"0123456789abcdefABCDEF"  # of addresses, too
_HEADING = re.compile(rb"^(?:==> (?P<path>.{1,400}) <==|[Rr]ank[ _-]?(?P<rank>\d{1,6}) ?:)[ \t]*\r?$", re.M)
_IN_SUMMARY = re.compile(rb"^\s*(?:exitcode|traceback)\s+: ")  # of torchrun: what it tells of a rank
_RANK_ABOVE = re.compile(rb"^\s*rank\s+: (\d{1,6}) \(local_rank: ", re.M)
_FRAME = re.compile(rb'^.{0,200}(File) "[^"\n]+", line \d+.*\n?', re.M)
_WORLD_SIZE = re.compile(r"(?:rankNum|ranks|rankSize|need connect rankNum is |total rank num )\[(\d{1,6})\]")

# The order in which what is found counts.
WEIGHT = {role: weight for weight, role in enumerate((Role.CAUSE, Role.SYMPTOM, Role.ECHO, Role.WRAPPER, Role.HINT))}


@dataclass(frozen=True)
class Block:
    """The next bytes of a log."""

    data: bytes
    thorough: bool = True  # look at every line


@dataclass(frozen=True)
class Sighting:
    """A rule that was found in a line."""

    rule: Rule
    offset: int  # of the line in its log, in bytes
    text: str
    details: Mapping[str, str]
    rank: Optional[int]
    pid: Optional[int]
    at: Optional[float]  # s, by the clock of the host that wrote it
    section: str = ""  # the heading above it, where one file has the logs of several ranks
    traceback: Optional[Traceback] = None


@dataclass
class Scan:
    """What was found in one log."""

    sightings: "list[Sighting]" = field(default_factory=list)
    counts: "Counter[str]" = field(default_factory=Counter)  # of all sightings, by the code of their rule
    rank_of_pid: "dict[int, int]" = field(default_factory=dict)
    ranks: "set[int]" = field(default_factory=set)  # that wrote into this log, as far as its head tells
    world_size: Optional[int] = None
    size_bytes: int = 0


class Scanner:
    """Looks through logs with one set of rules. What it learns of shapes serves all the logs it looks through."""

    def __init__(self, rules: Rules) -> None:
        self._by_prefix: "dict[bytes, list[tuple[bytes, Rule]]]" = {}
        self._by_family: "dict[bytes, list[Rule]]" = {}
        for rule in rules:
            for text in map(str.encode, rule.text):
                if text.endswith(b"##"):
                    self._by_family.setdefault(text.rstrip(b"#"), []).append(rule)
                else:
                    self._by_prefix.setdefault(text[:_PREFIX], []).append((text, rule))
        order = sorted(enumerate(rules), key=lambda one: (WEIGHT[one[1].role], one[1].near is None, one[0]))
        self._place = {rule.code: place for place, (_, rule) in enumerate(order)}
        self._prefixes = re.compile(b"(?=(" + _any_of(self._by_prefix) + b"))")  # they may overlap
        self._texts = re.compile(_any_of({text for texts in self._by_prefix.values() for text, _ in texts}))
        self._looks: "Counter[int]" = Counter()  # at lines of a shape, in vain
        self.known_shapes: "set[int]" = set()
        self.exception = rules["python-exception"]

    def scan(self, blocks: Iterable[Block]) -> Scan:
        """Return what the rules find in the *blocks* of one log, given in their order."""
        reading = _Reading(self)
        for block in blocks:
            reading.feed(block)
        return reading.finish()

    def rules_in(self, line: bytes) -> "list[Rule]":
        """Return the rules of which a text is in the line, the weightiest first."""
        found: "dict[str, Rule]" = {}
        if self._texts.search(line) is not None:
            for match in self._prefixes.finditer(line):
                for text, rule in self._by_prefix[match.group(1)]:
                    if line.startswith(text, match.start()):
                        found[rule.code] = rule
        for match in _OF_FAMILY.finditer(line):
            for family in (match.group()[:2], match.group()[:3]):
                found.update((rule.code, rule) for rule in self._by_family.get(family, ()))
        if not found and tracebacks.HEAD.encode() not in line and _RAISED not in line:
            self._remember(shape_of(line))
        return sorted(found.values(), key=lambda rule: self._place[rule.code])

    def _remember(self, shape: int) -> None:
        self._looks[shape] += 1
        if self._looks[shape] >= _SHAPE_LOOKS:
            self.known_shapes.add(shape)
        if len(self._looks) >= _MOST_SHAPES:
            self._looks.clear()
            self.known_shapes.clear()


def shape_of(line: bytes) -> int:
    """Return what lines that differ in their numbers only have in common."""
    return hash(line.translate(None, _DIGITS))


class _Reading:
    """Goes through one log, block by block."""

    def __init__(self, scanner: Scanner) -> None:
        self._scanner = scanner
        self._found = Scan()
        self._kept: "Counter[tuple[str, Optional[int], Optional[int], str]]" = Counter()
        self._alike: "Counter[int]" = Counter()
        self._told_enough: "set[int]" = set()  # shapes
        self._buffer = b""
        self._base = 0  # offset of the buffer's first byte in the log
        self._next = 0  # offset in the log of the first byte that has not been looked at
        self._thorough = True
        self._told_until = -1  # offset in the log of the end of the last traceback
        self._has_headings = False
        self._heading = ""
        self._heading_rank: Optional[int] = None

    def feed(self, block: Block) -> None:
        if not self._found.size_bytes:
            self._read_head(block.data)
        self._found.size_bytes += len(block.data)
        self._buffer += block.data
        # What an earlier block left over is looked at as thoroughly as that block asked for.
        self._look(max(0, self._found.size_bytes - _AHEAD), self._thorough or block.thorough)
        self._thorough = block.thorough

    def finish(self) -> Scan:
        self._look(self._found.size_bytes, True)
        self._give_times()
        return self._found

    def _give_times(self) -> None:
        """Give lines that no time stands before the time of the next that has one: nothing else tells their order."""
        later: Optional[float] = None
        sightings = self._found.sightings
        for number in reversed(range(len(sightings))):
            if sightings[number].at is None:
                sightings[number] = replace(sightings[number], at=later)
            later = sightings[number].at

    def _read_head(self, data: bytes) -> None:
        """Learn from the first lines which ranks write here."""
        for line in data[:_AHEAD].decode("utf-8", "replace").splitlines():
            line = line[:_MOST_LINE]
            if (rank := places.rank_of(line)) is not None:
                self._found.ranks.add(rank)
                if (pid := places.pid_of(line)) is not None:
                    self._found.rank_of_pid.setdefault(pid, rank)
            if "ank" in line and (match := _WORLD_SIZE.search(line)):
                self._found.world_size = int(match.group(1))
        self._has_headings = _HEADING.search(data[:_AHEAD]) is not None

    def _look(self, until: int, thorough: bool) -> None:
        """Look at the whole lines from where the last look ended up to the offset *until* in the log."""
        start, stop = self._next - self._base, until - self._base
        if until < self._found.size_bytes:  # not the end of the log: end with a line, if there is one
            end = self._buffer.rfind(b"\n", start, stop) + 1
            stop = end or (stop if stop - start > _MOST_LINE else start)
        if stop > start:
            for first, last in self._lines(start, stop, thorough):
                self._read_line(first, last)
            self._next = self._base + stop
        keep = max(0, self._next - self._base - _BEFORE)
        self._buffer, self._base = self._buffer[keep:], self._base + keep

    def _lines(self, start: int, stop: int, thorough: bool) -> "Iterator[tuple[int, int]]":
        """Yield first and last byte of the lines, or parts of endless lines, that are worth a look, in their order."""
        known, enough = self._scanner.known_shapes, self._told_enough
        if thorough:
            for line in self._buffer[start:stop].split(b"\n"):
                end = start + len(line)
                if len(line) > _MOST_LINE:
                    yield from ((first, min(end, first + _MOST_LINE)) for first in range(start, end, _MOST_LINE))
                elif line and (shape := shape_of(line)) not in known and shape not in enough:
                    yield start, end
                start = end + 1
            return
        spans: "dict[int, int]" = {}
        for position in self._alarms(start, stop):
            first = max(start, self._buffer.rfind(b"\n", start, position) + 1, position - _MOST_LINE // 2)
            last = self._buffer.find(b"\n", position, min(stop, first + _MOST_LINE))
            last = last if last >= 0 else min(stop, first + _MOST_LINE)
            if (shape := shape_of(self._buffer[first:last])) not in known and shape not in enough:
                spans[first] = last
        if self._has_headings:
            spans.update((match.start(), match.end()) for match in _HEADING.finditer(self._buffer, start, stop))
        yield from sorted(spans.items())

    def _alarms(self, start: int, stop: int) -> "Iterator[int]":
        """Yield where a word of alarm stands, once a line for each word."""
        buffer = self._buffer
        for word in _ALARMS:
            position = buffer.find(word, start, stop)
            while position >= 0:
                yield position
                end = buffer.find(b"\n", position, min(stop, position + _MOST_LINE))
                position = buffer.find(word, end if end >= 0 else position + _MOST_LINE // 2, stop)
        for match in _CODE.finditer(buffer, start, stop):
            yield match.start()

    def _read_line(self, first: int, last: int) -> None:
        line = self._buffer[first:last]
        if self._has_headings and (heading := _HEADING.match(line)):
            self._heading = line.decode("utf-8", "replace").strip()
            path, rank = heading["path"], heading["rank"]
            self._heading_rank = int(rank) if rank else places.place_of_path(path.decode("utf-8", "replace")).rank
            return
        rules = self._scanner.rules_in(line)
        is_traceback = tracebacks.HEAD.encode() in line
        is_exception = not rules and _RAISED in line and self._base + first > self._told_until
        if not (rules or is_traceback or is_exception):
            return
        shape = shape_of(line)
        self._alike[shape] += 1
        if self._alike[shape] >= _MOST_ALIKE:
            self._told_enough.add(shape)
        if len(self._alike) > _MOST_SHAPES:
            self._alike.clear()
        if self._is_source(first):
            return
        text = line.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]
        if is_traceback:
            self._read_traceback(first, text)
        quiet = places.is_quiet(text)
        if is_exception and not quiet and (told := tracebacks.alone(text)):
            self._keep(self._scanner.exception, first, text, {"exception": str(told)}, told)
        for rule in rules:
            if quiet and not rule.at_any_level:
                continue
            match = rule.compiled.search(text)
            if match is None or not self._is_near(rule, first, last):
                continue
            details = {name: value for name, value in match.groupdict().items() if value is not None}
            self._keep(rule, first, text, details, None)
            if rule.role is not Role.ECHO:  # of echoes each may name another rank
                return

    def _is_near(self, rule: Rule, first: int, last: int) -> bool:
        pattern = rule.compiled_near
        return pattern is None or pattern.search(self._buffer, max(0, first - _NEAR), last + _NEAR) is not None

    def _is_source(self, first: int) -> bool:
        """Tell whether the line is one of a program, as tracebacks quote them below each frame."""
        before = self._buffer.rfind(b"\n", max(0, first - _MOST_LINE), max(0, first - 1)) + 1
        frame = _FRAME.search(self._buffer, before, first)
        if frame is None:
            return False
        indent = first + frame.start(1) - before  # the line below a frame stands further to the right
        return self._buffer[indent : indent + 1].isspace()

    def _read_traceback(self, first: int, text: str) -> None:
        raw = self._buffer[first : first + _AHEAD].split(b"\n")
        lines = [text, *(line[:_MOST_LINE].decode("utf-8", "replace") for line in raw[1:])]
        told = tracebacks.read(lines)
        if told is not None and told.type not in ("KeyboardInterrupt", "SystemExit", "GeneratorExit"):
            last = first + sum(len(line) + 1 for line in raw[: told.lines - 1])
            self._keep(self._scanner.exception, last, lines[told.lines - 1], {"exception": str(told)}, told)
            self._told_until = self._base + last

    def _keep(
        self, rule: Rule, first: int, text: str, details: "dict[str, str]", traceback: Optional[Traceback]
    ) -> None:
        self._found.counts[rule.code] += 1
        said = places.rank_of(text)
        if said is None and "self" in details:
            said = int(details["self"])
        if said is None and _IN_SUMMARY.match(text.encode()) is not None:
            above = _RANK_ABOVE.findall(self._buffer, max(0, first - _SUMMARY), first)
            said = int(above[-1]) if above else None
        rank = self._heading_rank if said is None else said
        pid = places.pid_of(text)
        if pid is not None and rank is not None:
            self._found.rank_of_pid.setdefault(pid, rank)
        key = (rule.code, rank, pid, self._heading)
        names_another = rule.role is Role.ECHO and details
        if self._kept[key] >= (8 * _KEPT if names_another else _KEPT) or len(self._found.sightings) >= _MOST_KEPT:
            return
        self._kept[key] += 1
        at = places.time_of(text)
        self._found.sightings.append(
            Sighting(
                rule,
                self._base + first,
                text[:_MOST_TEXT].strip(),
                details,
                rank,
                pid,
                at if at is not None else self._time_before(first),
                self._heading,
                traceback,
            )
        )

    def _time_before(self, position: int) -> Optional[float]:
        """Return the last time that a line before *position* tells, within what is kept of the log."""
        text = self._buffer[max(0, position - _BEFORE // 4) : position].decode("utf-8", "replace")
        for line in reversed(text.splitlines()):
            if (at := places.time_of(line)) is not None:
                return at
        return None


def _any_of(texts: "Iterable[bytes]") -> bytes:
    """Return a pattern that finds any of *texts*: it looks at each letter once, however many texts there are."""
    root: "dict[int, Any]" = {}
    ends = -1
    for text in texts:
        node = root
        for letter in text:
            node = node.setdefault(letter, {})
        node[ends] = True

    def pattern(node: "dict[int, Any]") -> bytes:
        if ends in node:
            return b""  # what is longer begins with it
        branches = [re.escape(bytes([letter])) + pattern(below) for letter, below in sorted(node.items())]
        return branches[0] if len(branches) == 1 else b"(?:" + b"|".join(branches) + b")"

    return pattern(root)
