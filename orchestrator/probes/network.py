"""The network port of each device: what `hccn_tool -i N -QUERY -g` answers, and what /etc/hccn.conf says.

Answers may stand alone, behind their commands in a record, or among other things. Source: hccn_tool's own documents and
source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from orchestrator.probes.text import ABSENT, is_cut, leading, lines_of

GOOD_HEALTH = ("Success", "Init")  # Init: nothing was set that the device could ping


@dataclass(frozen=True)
class Ping:
    """Three packets from a device to an address."""

    address: Optional[str]
    sent: int
    received: int
    loss_pct: float


@dataclass(frozen=True)
class LinkChange:
    when: str  # as the device's clock has it
    state: str  # UP | DOWN


@dataclass(frozen=True)
class Optical:
    """The optical module of a port. *values* are its lines as they are, by key in small letters."""

    values: Mapping[str, str]

    @property
    def present(self) -> Optional[bool]:
        said = self.values.get("present")
        return None if said is None else said.lower() == "present"

    def faults(self) -> "list[str]":
        """Return what is beyond its own limits, and which signal is lost."""
        found = []
        for what, limits in (("tx power", "txpower"), ("rx power", "rxpower"), ("vcc", "vcc"), ("temperature", "temp")):
            low, high = (leading(self.values.get(f"{limits} {side} thres")) for side in ("low", "high"))
            for key, value in self.values.items():
                figure = leading(value)
                if re.fullmatch(rf"{what}[0-9]?", key) and figure is not None:
                    if low is not None and figure < low:
                        found.append(f"{key} {value} is below {self.values[f'{limits} low thres']}")
                    elif high is not None and figure > high:
                        found.append(f"{key} {value} is above {self.values[f'{limits} high thres']}")
        for flag in ("tx los flag", "rx los flag", "tx lol flag", "rx lol flag"):
            if self.values.get(flag, "0x0").lower() not in ("0x0", "0x00", "0", *map(str.lower, ABSENT)):
                found.append(f"{flag} is {self.values[flag]}")
        return found


@dataclass(frozen=True)
class Port:
    """What is known of one device's port; None: not told. *device* None: the answer does not say which."""

    device: Optional[int]
    address: Optional[str] = None  # IPv4 before IPv6
    netmask: Optional[str] = None
    gateway: Optional[str] = None
    detect: Optional[str] = None  # the address that the device pings for its health
    link_status: Optional[str] = None  # UP | DOWN, as asked now
    link_up_count: Optional[int] = None
    link_down_count: Optional[int] = None
    link_changes: tuple[LinkChange, ...] = ()
    net_health: Optional[str] = None
    tls: Optional[bool] = None
    optical: Optional[Optical] = None
    fec: Optional[str] = None
    speed_mbps: Optional[int] = None
    switch_port: Optional[str] = None
    switch_address: Optional[str] = None
    pings: tuple[Ping, ...] = ()
    vnic_status: Optional[str] = None  # A3's port among the dies of a super pod
    vnic_address: Optional[str] = None
    statistics: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)  # of hccn.conf, whatever they are
    problem: Optional[str] = None  # what the tool said instead of an answer

    @property
    def link(self) -> Optional[str]:
        """UP or DOWN: as asked, else by the newest change."""
        return self.link_status or (newest(self.link_changes).state if self.link_changes else None)


@dataclass(frozen=True)
class Ports:
    """The ports that a text tells of, by device. *understood*: it tells of something."""

    raw: str
    ports: tuple[Port, ...]
    truncated: bool = False  # somebody cut lines out

    @property
    def understood(self) -> bool:
        return bool(self.ports)

    def addresses(self) -> "dict[int, str]":
        return {port.device: port.address for port in self.ports if port.device is not None and port.address}


_ASKED = re.compile(r"hccn_tool\b.*?\s-i\s+([0-9]{1,6})\b")
_OF_DEVICE = re.compile(r"\s*\[dev(?:id|ice)?\s*([0-9]{1,6})\]\s*(.*)")
_TLS = re.compile(r"dev_id\s*:\s*([0-9]{1,6})\s*,\s*tls switch\s*\[([01])\]")
_COUNT = re.compile(r"link (up|down) count(?:\s*:)?\s*([0-9]{1,12})")
_CHANGE = re.compile(r"(\S.{0,60}?)\s+LINK\s+(UP|DOWN)")
_TIME = re.compile(r"([A-Z][a-z]{2})[\s:]+([0-9]{1,2})\s+([0-9]{2}:[0-9]{2}:[0-9]{2})\s+([0-9]{4})")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_PING = re.compile(r"device\s+([0-9]{1,6})\s+PING\s+(\S+)")
_PINGED = re.compile(r"([0-9]{1,9}) packets transmitted, ([0-9]{1,9}) received, ([0-9]{1,3}(?:\.[0-9]{1,9})?)% packet")
_SETTING = re.compile(r"\s*([A-Za-z][A-Za-z0-9_]{0,40}?)_([0-9]{1,6})\s*=\s*(.*)")
_STATISTIC = re.compile(r"\s*([a-z][a-z0-9_]{2,60})\s*:\s*([0-9]{1,18})\s*")
_ROUTE = re.compile(r"\s*(?:default|0\.0\.0\.0)\s+([0-9.]{7,15})\s+0\.0\.0\.0\s+UG.*")  # of `-route -g`
_ANSWER = re.compile(r"\s*([A-Za-z][^:=\[\]]{0,40}?)\s*:\s*(.*)")
_REFUSALS = (
    "hccn_tool is busy",
    "permission denied",
    "The device is not exist",
    "Get invalid device id",
    "no ip was preset",
    "no gateway was preset",
    "Cmd execute failed",
    "Command execute failed",
    "cmd line execute timeout",
    "Control link unreachable",
    "Optical module is not present",
)
# Keys of answers, in small letters -> field, and how to read it.
_KEYS = {
    "link status": "link_status",
    "net health status": "net_health",
    "netdetect address": "detect",
    "netdetect addr": "detect",
    "netmask": "netmask",
    "prefix_length": "netmask",
    "fec mode": "fec",
    "speed": "speed_mbps",
    "default gateway": "gateway",
    "vnic link status": "vnic_status",
    "vnic ipaddr": "vnic_address",
    "ifname": "switch_port",
    "ipaddr": "ipv4",
    "ipv6_address": "ipv6",
}
_SETTINGS = {
    "address": "ipv4",
    "ipv6address": "ipv6",
    "netmask": "netmask",
    "ipv6netmask": "netmask",
    "gateway": "gateway",
    "ipv6gateway": "gateway",
    "netdetect": "detect",
    "ipv6netdetect": "detect",
}


class _Reader:
    """Gathers the fields of each device while lines go by."""

    def __init__(self) -> None:
        self.by_device: "dict[tuple[bool, int], dict[str, Any]]" = {}
        self._asked: Optional[int] = None
        self._unasked = 0
        self._section = ""  # what the lines that follow belong to

    def of(self, device: Optional[int], key: str = "") -> "dict[str, Any]":
        """Return the fields of a device, or of the one that was asked for; answers without either are counted."""
        if device is None:
            device = self._asked
        if device is not None:
            return self.by_device.setdefault((True, device), {})
        said = self.by_device.get((False, self._unasked), {})
        if key in said or "problem" in said or (key == "problem" and said):
            self._unasked += 1  # the same again, or a refusal beside an answer: of the next device
        return self.by_device.setdefault((False, self._unasked), {})

    def read(self, line: str) -> None:
        if "hccn_tool" in line and (asked := _ASKED.search(line)):
            self._asked, self._section = int(asked.group(1)), ""
            return
        if match := _OF_DEVICE.fullmatch(line):
            device, rest = int(match.group(1)), match.group(2)
            if not self._link(device, rest) and (counted := _STATISTIC.fullmatch(rest)):
                self.of(device).setdefault("packet", {})[counted.group(1)] = int(counted.group(2))
        elif match := _ROUTE.fullmatch(line):
            self.of(None)["gateway"] = match.group(1)
        elif match := _TLS.search(line):
            self.of(int(match.group(1)))["tls"] = match.group(2) == "1"
        elif match := _PING.search(line):
            self._asked = int(match.group(1))
            self.of(None)["pinged"] = match.group(2)
        elif match := _PINGED.search(line):
            fields = self.of(None)
            ping = Ping(fields.pop("pinged", None), int(match.group(1)), int(match.group(2)), float(match.group(3)))
            fields["pings"] = (*fields.get("pings", ()), ping)
        elif refusal := next((words for words in _REFUSALS if words in line), None):
            self.of(None, "problem")["problem"] = refusal
        elif match := _SETTING.fullmatch(line):
            self._setting(match.group(1), int(match.group(2)), match.group(3).partition(" #")[0].strip())
        elif line.strip().lower() in ("optical info:", "packet statistics:"):
            self._section = line.split()[0].lower()
            self.of(None, self._section)[self._section] = {}
        elif self._link(None, line):
            pass
        elif match := _ANSWER.fullmatch(line):
            self._answer(line, match.group(1).lower(), match.group(2).strip())

    def _link(self, device: Optional[int], words: str) -> bool:
        """Take in a line of `-link_stat`; tell whether it was one."""
        if count := _COUNT.search(words):
            self.of(device, f"link_{count.group(1)}_count")[f"link_{count.group(1)}_count"] = int(count.group(2))
        elif "link change records" in words:
            self.of(device)["link_changes"] = ()
        elif change := _CHANGE.fullmatch(words.strip()):
            fields = self.of(device)
            found = LinkChange(" ".join(change.group(1).split()), change.group(2))
            fields["link_changes"] = (*fields.get("link_changes", ()), found)
        else:
            return False
        return True

    def _setting(self, key: str, device: int, value: str) -> None:
        fields = self.of(device)
        fields.setdefault("settings", {})[key] = value
        if name := _SETTINGS.get(key.lower()):
            fields[name] = value
        elif key == "tls_enable" and value in ("0", "1"):
            fields["tls"] = value == "1"

    def _answer(self, line: str, key: str, value: str) -> None:
        name = _KEYS.get(key)
        if name == "gateway":
            value = value.partition(",")[0].strip()
        if name == "speed_mbps":
            number = leading(value)
            if number is not None:
                self.of(None, name)[name] = int(number)
        elif name is not None and value:
            self.of(None, name)[name] = value
        elif key in ("ipv4", "ipv6") and value not in ABSENT:
            self.of(None)["switch_address"] = value  # of LLDP: the device's own has another key
        elif self._section == "optical" and value:
            self.of(None).setdefault("optical", {})[key] = value
        elif self._section == "packet" and (match := _STATISTIC.fullmatch(line)):
            self.of(None).setdefault("packet", {})[match.group(1)] = int(match.group(2))


def parse_ports(text: str, device: Optional[int] = None) -> Ports:
    """Read answers of hccn_tool, or an hccn.conf; *device* is whose they are where they do not say so. Never raises.

    A record of several answers has their commands before them; answers of several devices without are counted from 0.
    """
    reader = _Reader()
    for line in lines_of(text):
        reader.read(line)
    alone = sum(not known for known, _ in reader.by_device) == 1
    found: "dict[Optional[int], dict[str, Any]]" = {}
    for (known, number), fields in sorted(reader.by_device.items()):
        found.setdefault(device if alone and not known else number, {}).update(fields)
    cut = any(map(is_cut, lines_of(text)))
    return Ports(text, tuple(_port(number, fields) for number, fields in found.items() if fields), cut)


def _port(device: Optional[int], fields: "dict[str, Any]") -> Port:
    fields = dict(fields)
    ipv4, ipv6, statistics = fields.pop("ipv4", None), fields.pop("ipv6", None), fields.pop("packet", {})
    fields.pop("pinged", None)
    optical = fields.pop("optical", None)
    return Port(
        device,
        ipv4 or ipv6,
        statistics=statistics,
        optical=None if optical is None else Optical(optical),
        **fields,
    )


def newest(changes: "tuple[LinkChange, ...]") -> LinkChange:
    """Return the newest of at least one change: the tool lists it first, by the times in which we believe."""
    first, last = _moment(changes[0].when), _moment(changes[-1].when)
    return changes[-1] if first is not None and last is not None and last > first else changes[0]


def _moment(when: str) -> "Optional[tuple[int, int, int, str]]":
    match = _TIME.search(when)
    if match is None or match.group(1) not in _MONTHS:
        return None
    return int(match.group(4)), _MONTHS.index(match.group(1)), int(match.group(2)), match.group(3)
