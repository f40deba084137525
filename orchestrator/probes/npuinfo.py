"""`npu-smi info`: its table of devices and that of the processes on them.

The heads of the table say which figure is which; where lines, frames and columns begin differs between drivers 20 to 26
and between 310P, 910A, 910B and A3, and counts for nothing. Source: npu-smi's own documents and source.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from orchestrator.probes.text import ABSENT, decimal, is_cut, lines_of, whole

WORDS = ("npu-smi", "info")


@dataclass(frozen=True)
class NpuDevice:
    """What HCCL counts as a device: a chip of a card. None: not shown."""

    npu: int  # the card
    chip: int  # on the card
    name: Optional[str] = None
    health: Optional[str] = None  # OK | Warning | Alarm | Critical | what a newer driver says
    power_w: Optional[float] = None  # of the card: its second die has none
    temp_c: Optional[int] = None
    hugepages: Optional[str] = None  # used/total
    phy_id: Optional[int] = None  # the N of /dev/davinciN; None on products that have one chip a card
    bus_id: Optional[str] = None
    aicore_pct: Optional[int] = None
    mem_used_mb: Optional[int] = None
    mem_total_mb: Optional[int] = None
    hbm_used_mb: Optional[int] = None
    hbm_total_mb: Optional[int] = None

    @property
    def device_id(self) -> int:
        """The physical id, by which hccn_tool and rank tables know it."""
        return self.npu if self.phy_id is None else self.phy_id


@dataclass(frozen=True)
class NpuProcess:
    """A process that uses a device; *pid* counts on the host, also where the table is of a container."""

    npu: int
    chip: int
    pid: int
    name: str  # "" where the tool cannot tell
    mem_mb: Optional[int] = None
    container_pid: Optional[int] = None


@dataclass(frozen=True)
class NpuInfo:
    """What `npu-smi info` said. *problem*: why it shows no table; *unread*: lines of it that mean nothing to us."""

    raw: str
    devices: tuple[NpuDevice, ...] = ()
    processes: tuple[NpuProcess, ...] = ()
    version: Optional[str] = None  # of npu-smi
    driver_version: Optional[str] = None
    truncated: bool = False  # somebody cut rows out
    incomplete_driver: bool = False  # the tool's own warning
    problem: Optional[str] = None
    unread: tuple[str, ...] = ()
    headed: bool = False  # the heads of a table of devices were there

    @property
    def understood(self) -> bool:
        """Whether all of it was: no figure is missing for our sake."""
        return (self.headed or bool(self.devices) or self.problem is not None) and not self.unread


# What the tool says instead of a table -> what it means. Exit codes are the number after `ret is`, in one byte.
_PROBLEMS = (
    ("dcmi module initialize failed", "the driver is not loaded, or its devices are not for us to open"),
    ("because the device is used", "the devices belong to another container or virtual machine"),
    ("There is no NPU card on this server", "no card is seen on this host"),
    ("Invalid card id", "there is no card of that number"),
    ("does not support querying", "this product cannot be asked that"),
    ("Operation not permitted", "only root may ask that"),
    ("Failed to execute npu-smi", "the driver refused to answer"),
)
_TITLE = re.compile(r"npu-smi\s+(?P<tool>\S+)(?:.*?\bVersion:\s*(?P<driver>[^\s|]+))?")
_VALUE = re.compile(r"(?:[0-9]+|NA|--?)\s*/\s*(?:[0-9]+|NA|--?)(?=\s|$)|\S+")
_PAIR = re.compile(r"([0-9]{1,12}|NA|--?)\s*/\s*([0-9]{1,12}|NA|--?)")

# Heads of columns -> what they give. `rest` is a text that may have blanks.
_COLUMNS = {
    "npu": ("npu", "whole"),
    "chip": ("chip", "whole"),
    "device": ("phy_id", "whole"),
    "phy-id": ("phy_id", "whole"),
    "name": ("name", "rest"),
    "health": ("health", "rest"),
    "bus-id": ("bus_id", "rest"),
    "power(w)": ("power_w", "decimal"),
    "temp(c)": ("temp_c", "whole"),
    "hugepages-usage(page)": ("hugepages", "pages"),
    "aicore(%)": ("aicore_pct", "whole"),
    "memory-usage(mb)": ("mem", "pair"),
    "hbm-usage(mb)": ("hbm", "pair"),
}
# What all drivers so far head their columns with, for rows copied without their heads: they must fit whole.
_FIRST = [["npu", "name"], ["health"], ["power(w)", "temp(c)", "hugepages-usage(page)"]]
_SECOND = [["chip", "phy-id"], ["bus-id"], ["aicore(%)", "memory-usage(mb)", "hbm-usage(mb)"]]
_SECOND_WITHOUT_HBM = [*_SECOND[:2], _SECOND[2][:2]]
_PROCESS_COLUMNS = {
    "process id": "pid",
    "process name": "name",
    "process memory(mb)": "mem_mb",
    "process id in container": "container_pid",
}


@dataclass
class _Table:
    """The heads of a table while its rows are read."""

    first: "list[list[str]]" = field(default_factory=list)  # of a device's first line, the words of each cell
    second: "list[list[str]]" = field(default_factory=list)
    of_processes: "Optional[list[str]]" = None  # their heads, once the table of processes has begun
    processes_first: "list[str]" = field(default_factory=list)
    begun: "Optional[tuple[str, dict[str, Any]]]" = None  # a device whose second line is to come


def parse_info(text: str) -> NpuInfo:
    """Read what `npu-smi info` printed, or a record in which it stands among other things; never raises."""
    told = NpuInfo(raw=text)
    devices: "list[NpuDevice]" = []
    processes: "list[NpuProcess]" = []
    unread: "list[str]" = []
    table = _Table()

    def drop_begun() -> None:
        if table.begun is not None:
            unread.append(table.begun[0])
            table.begun = None

    for line in lines_of(text):
        cells = _cells(line)
        if cells is None or _is_frame(line):
            drop_begun()
            told = _beside(told, line)
            continue
        if len(cells) == 1 and (title := _TITLE.search(cells[0])) and "Version" in cells[0]:
            # A record may hold the table twice, before and after: the later one counts.
            devices, processes, unread, table = [], [], [], _Table()
            told = replace(told, version=title.group("tool"), driver_version=title.group("driver"), headed=False)
        elif is_cut(line):
            told = replace(told, truncated=True)
        elif _is_head(cells, table):
            told = replace(told, headed=told.headed or bool(table.first and table.second))
        elif table.of_processes is not None:
            if len(cells) == 1 and "no running process" in cells[0].lower():
                continue
            process = _process(cells, table)
            processes += [process] if process else []
            unread += [] if process else [line]
        elif (table.first and table.second) or _row(_FIRST, cells) is not None or table.begun is not None:
            if table.begun is None:
                row = _row(table.first or _FIRST, cells)
                table.begun = (line, row) if row is not None and row.get("npu") is not None else None
                unread += [] if table.begun else [line]
            else:
                seconds = [table.second] if table.second else [_SECOND, _SECOND_WITHOUT_HBM]
                row = next((found for heads in seconds if (found := _row(heads, cells)) is not None), None)
                if row is None or row.get("chip") is None:
                    unread += [table.begun[0], line]
                else:
                    devices.append(NpuDevice(**{**table.begun[1], **row}))
                table.begun = None
        else:
            unread.append(line)
    drop_begun()
    return replace(told, devices=tuple(devices), processes=tuple(processes), unread=tuple(unread))


def _beside(told: NpuInfo, line: str) -> NpuInfo:
    """Take in a line that is no row."""
    if is_cut(line):
        return replace(told, truncated=True)
    if "may not be completely installed" in line:
        return replace(told, incomplete_driver=True)
    if told.problem is None and not told.headed:
        return replace(told, problem=next((meaning for words, meaning in _PROBLEMS if words in line), None))
    return told


def _is_frame(line: str) -> bool:
    return not line.strip("+|=- \t") and ("---" in line or "===" in line)


def _cells(line: str) -> "Optional[list[str]]":
    """Return what stands between the bars of a row; None where it is no row."""
    start = line.find("|")
    if start < 0 or (line[:start].strip() and not line[:start].strip().startswith((">", "#", "*", "$"))):
        return None
    parts = line[start + 1 :].split("|")
    if len(parts) > 1 and not parts[-1].strip():
        parts.pop()
    return [part.strip() for part in parts]


def _words(cell: str) -> "list[str]":
    return re.sub(r"\s+\(", "(", cell.lower()).split()


def _is_head(cells: "Sequence[str]", table: _Table) -> bool:
    """Tell whether a row names columns, and keep their names."""
    words = [_words(cell) for cell in cells]
    first = words[0] if words else []
    whole_heads = [" ".join(one) for one in words]
    if first[:1] == ["npu"] and "process id" in whole_heads:
        table.of_processes, table.processes_first = whole_heads, first
    elif first[:2] == ["npu", "name"]:
        table.first, table.second, table.of_processes = words, [], None
    elif first[:1] == ["chip"] and ["bus-id"] in words:
        table.second = words
    else:
        return False
    return True


def _row(heads: "Sequence[Sequence[str]]", cells: "Sequence[str]") -> "Optional[dict[str, Any]]":
    """Return the figures of a row by our names; None where it does not fit its heads."""
    if len(cells) != len(heads):
        return None
    found: "dict[str, Any]" = {}
    for names, cell in zip(heads, cells):
        values = [match.group() for match in _VALUE.finditer(cell)]
        kinds = [_COLUMNS.get(name, (None, "other")) for name in names]
        if kinds and kinds[-1][1] == "rest":
            words = cell.split(None, len(kinds) - 1)
            values = words if cell else [""]
        elif names and names[0] == "chip" and len(values) == 1:
            values += [""] * (len(kinds) - 1)  # a product without physical ids under a head for them
        if len(values) != len(kinds):
            return None
        for (key, kind), value in zip(kinds, values):
            if key is not None and not _take(found, key, kind, value):
                return None
    return found


def _take(found: "dict[str, Any]", key: str, kind: str, value: str) -> bool:
    """Put a value under its name; tell whether it is one."""
    if kind == "rest":
        found[key] = value or None
        return True
    if kind in ("pair", "pages"):
        pair = _PAIR.fullmatch(value)
        if pair is None and value not in ABSENT:
            return False
        parts = [whole(part) for part in pair.groups()] if pair else [None, None]
        if kind == "pages":
            found[key] = None if None in parts else f"{parts[0]}/{parts[1]}"
        else:
            found[f"{key}_used_mb"], found[f"{key}_total_mb"] = parts
        return True
    found[key] = decimal(value) if kind == "decimal" else whole(value)
    return found[key] is not None or value in ABSENT


def _process(cells: "Sequence[str]", table: _Table) -> Optional[NpuProcess]:
    heads = table.of_processes or []
    if len(cells) != len(heads):
        return None
    place = dict(zip(table.processes_first, cells[0].split()))
    found: "dict[str, Any]" = {"npu": whole(place.get("npu")), "chip": whole(place.get("chip"))}
    for head, cell in zip(heads[1:], cells[1:]):
        key = _PROCESS_COLUMNS.get(head)
        if key is not None:
            found[key] = cell if key == "name" else whole(cell)
    if None in (found["npu"], found["chip"], found.get("pid")):
        return None
    return NpuProcess(**{"name": "", **found})
