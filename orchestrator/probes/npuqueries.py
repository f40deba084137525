"""What `npu-smi info` answers to `-t`, `-m` and `-l`: health, ECC, temperature, power, use, board, mapping, topology.

Answers are `key : value` lines, of a card or of each chip; the number of the chip stands before its lines in some
answers and after them in others. Source: npu-smi's own documents and source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Optional

from orchestrator.probes.text import ABSENT, leading, lines_of, whole

_COMMAND = re.compile(r"npu-smi\s+info\b(.*)")
_OPTION = re.compile(r"-([ic])\s+([0-9]{1,12})")
_CODE = re.compile(r"(?:0x)?([0-9A-Fa-f]{8})")
_HEAD = ("NPU ID", "Chip ID", "Chip Logic ID", "Chip Phy-ID", "Chip Name")
_PROCESS = re.compile(r"Process id ?: ?([0-9]{1,12}) Process name ?: ?(.*?) ?Process memory\(MB\) ?: ?([0-9]{1,12})")


def words(query: str, npu: int, chip: Optional[int] = None) -> "list[str]":
    """Return the command of a query: health, ecc, temp, power, usages, memory, common, board, proc-mem."""
    return ["npu-smi", "info", "-t", query, "-i", str(npu), *([] if chip is None else ["-c", str(chip)])]


MAPPING_WORDS = ("npu-smi", "info", "-m")
TOPOLOGY_WORDS = ("npu-smi", "info", "-t", "topo")


@dataclass(frozen=True)
class Record:
    """The lines about one chip, or about a card (*chip* None), by their keys in small letters."""

    npu: Optional[int]
    chip: Optional[int]
    values: Mapping[str, str]

    def number(self, *keys: str) -> Optional[float]:
        """Return the number of the first of *keys* that has one."""
        return next((found for key in keys if (found := leading(self.values.get(key))) is not None), None)

    def count(self, key: str) -> Optional[int]:
        return whole(self.values.get(key))


@dataclass(frozen=True)
class Health:
    npu: Optional[int]
    chip: Optional[int]
    status: str  # OK | Warning | Alarm | Critical
    error_codes: tuple[str, ...] = ()  # eight hexadecimal digits
    messages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ecc:
    """Errors that memory has told of; None: not shown. Double-bit errors were not corrected."""

    npu: Optional[int]
    chip: Optional[int]
    hbm_single: Optional[int] = None
    hbm_double: Optional[int] = None
    hbm_single_total: Optional[int] = None
    hbm_double_total: Optional[int] = None
    hbm_single_isolated_pages: Optional[int] = None
    hbm_double_isolated_pages: Optional[int] = None
    ddr_single: Optional[int] = None
    ddr_double: Optional[int] = None


@dataclass(frozen=True)
class Sensors:
    """What a chip measures, of whatever query; None: not shown there."""

    npu: Optional[int]
    chip: Optional[int]
    temp_c: Optional[float] = None
    hbm_temp_c: Optional[float] = None
    power_w: Optional[float] = None
    aicore_pct: Optional[float] = None
    hbm_pct: Optional[float] = None
    hbm_capacity_mb: Optional[float] = None
    mem_pct: Optional[float] = None


@dataclass(frozen=True)
class Mapped:
    """A line of `npu-smi info -m`; *logic_id* and *phy_id* None: not a device, or not shown."""

    npu: int
    chip: int
    logic_id: Optional[int]
    phy_id: Optional[int]
    name: str


@dataclass(frozen=True)
class Topology:
    """How devices are joined: *links* by pair of names, and the CPUs near each where the answer has them."""

    devices: tuple[str, ...]
    links: Mapping[tuple[str, str], str]
    cpu_affinity: Mapping[str, str]


def parse_records(text: str) -> "list[Record]":
    """Return what an answer, or a record of several with their commands, says of each chip; never raises."""
    records: "list[Record]" = []
    for npu, chip, pairs in _cards(text):
        # An answer that ends with a chip's number has it after the lines of that chip.
        after = bool(pairs) and pairs[-1][0] == "chip id"
        values: "dict[str, str]" = {}
        number = chip
        for key, value in pairs:
            if key == "chip id" and after:
                records.append(Record(npu, whole(value), values))
                values = {}
                continue
            # A controller beside the chips has no number, only a name.
            if key == "chip id" or key in values or (key, value.lower()) == ("chip name", "mcu"):
                if values:
                    records.append(Record(npu, number, values))
                values = {}
                number = whole(value) if key == "chip id" else None
                if key == "chip id":
                    continue
            values[key] = value
        if values:
            records.append(Record(npu, number, values))
    return records


def _cards(text: str) -> "Iterator[tuple[Optional[int], Optional[int], list[tuple[str, str]]]]":
    """Yield each card's number, the chip that its command asked for, and its lines."""
    npu: Optional[int] = None
    chip: Optional[int] = None
    pairs: "list[tuple[str, str]]" = []
    for line in lines_of(text):
        if command := _COMMAND.search(line):
            if pairs:
                yield npu, chip, pairs
            asked = dict(_OPTION.findall(command.group(1)))
            npu, chip, pairs = whole(asked.get("i")), whole(asked.get("c")), []
        elif key := line.partition(":")[0].strip().lower() if ":" in line else "":
            value = line.partition(":")[2].strip()
            if key == "npu id":
                if pairs:
                    yield npu, chip, pairs
                npu, pairs = whole(value), []
            elif key not in ("chip count", "total count", "usage"):
                pairs.append((key, value))
        elif pairs and line.strip(" \t:") and line[:1].isspace():
            key, value = pairs[-1]
            pairs[-1] = (key, f"{value}\n{line.strip().lstrip(':').strip()}")  # goes on from the line before
    if pairs:
        yield npu, chip, pairs


def parse_health(text: str) -> "list[Health]":
    """Return the health of each chip that an answer to `-t health` tells of."""
    found = []
    for record in parse_records(text):
        status = record.values.get("health status", record.values.get("health"))
        if status is None:
            continue
        said = record.values.get("error information", "").split("\n")
        found.append(
            Health(
                record.npu,
                record.chip,
                status,
                tuple(code.upper() for code in _CODE.findall(record.values.get("error code", ""))),
                tuple(one for one in said if one not in ABSENT),
            )
        )
    return found


def parse_ecc(text: str) -> "list[Ecc]":
    """Return the errors of each chip that an answer to `-t ecc` tells of."""
    return [
        Ecc(
            record.npu,
            record.chip,
            record.count("hbm single bit error count"),
            record.count("hbm double bit error count"),
            record.count("hbm single bit aggregate total err cnt"),
            record.count("hbm double bit aggregate total err cnt"),
            record.count("hbm single bit isolated pages count"),
            record.count("hbm double bit isolated pages count"),
            record.count("ddr single bit error count"),
            record.count("ddr double bit error count"),
        )
        for record in parse_records(text)
        if any("bit error count" in key for key in record.values)
    ]


def parse_sensors(text: str) -> "list[Sensors]":
    """Return what answers to `-t temp`, `power`, `usages`, `memory` or `common` tell of each chip."""
    return [
        Sensors(
            record.npu,
            record.chip,
            record.number("temperature(c)", "npu temperature(c)", "temperature (c)"),
            record.number("hbm temperature(c)"),
            record.number("npu real-time power(w)", "power dissipation(w)", "power(w)"),
            record.number("aicore usage rate(%)"),
            record.number("hbm usage rate(%)"),
            record.number("hbm capacity(mb)"),
            record.number("memory usage rate(%)", "ddr usage rate(%)"),
        )
        for record in parse_records(text)
        if any(key.endswith(("(c)", "(w)", "(%)", "(mb)")) for key in record.values)
    ]


def parse_processes(text: str) -> "list[tuple[int, str, int]]":
    """Return pid, name and MB of each process that an answer to `-t proc-mem` tells of."""
    found = (_PROCESS.search(" ".join(line.split())) for line in lines_of(text))
    return [(int(one.group(1)), one.group(2), int(one.group(3))) for one in found if one]


def parse_mapping(text: str) -> "list[Mapped]":
    """Return the lines of `npu-smi info -m`; its heads say what is what."""
    heads: "list[str]" = []
    found = []
    for line in lines_of(text):
        if "NPU ID" in line and "Chip Name" in line:
            heads = sorted((head for head in _HEAD if head in line), key=line.index)
        elif heads:
            cells = dict(zip(heads, line.split(None, len(heads) - 1)))
            npu, chip = whole(cells.get("NPU ID")), whole(cells.get("Chip ID"))
            if npu is None or chip is None or "Chip Name" not in cells:
                continue
            logic, phy = whole(cells.get("Chip Logic ID")), whole(cells.get("Chip Phy-ID"))
            found.append(Mapped(npu, chip, logic, phy, cells["Chip Name"].strip()))
    return found


def parse_topology(text: str) -> Topology:
    """Return what `npu-smi info -t topo` shows; without devices where it shows none."""
    columns: "list[str]" = []
    near = False
    links: "dict[tuple[str, str], str]" = {}
    affinity: "dict[str, str]" = {}
    for line in lines_of(text):
        cells = line.split()
        named = [cell for cell in cells if re.fullmatch(r"(?:NPU|Phy-ID)[0-9]{1,6}", cell)]
        if len(named) >= 1 and cells[: len(named)] == named and (len(named) > 1 or "CPU Affinity" in line):
            columns, near = named, "CPU Affinity" in line
        elif columns and cells and cells[0] in columns and len(cells) > len(columns):
            links.update({(cells[0], other): kind for other, kind in zip(columns, cells[1:])})
            if near and len(cells) > len(columns) + 1:
                affinity[cells[0]] = " ".join(cells[len(columns) + 1 :])
    return Topology(tuple(columns), links, affinity)
