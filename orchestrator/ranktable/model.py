"""RankTable: who is which rank on which device of which server, whatever version of the file says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional, Union

# The versions that are written, by the names under which users ask for them. `legacy` is the form without a version
# and without rank ids (their order counts), `legacy-lab` the older one with `deploy_mode`.
VERSIONS = ("1.0", "1.2", "2.0", "legacy", "legacy-lab")
COMPLETED = "completed"


@dataclass(frozen=True)
class TableDevice:
    """One rank. What HCCL counts as a device: an NPU, on A3 one die of a card."""

    rank_id: int
    device_id: int  # the physical one: N of /dev/davinciN
    device_ips: "tuple[str, ...]" = ()  # of the device's own network card; more than one is rare
    super_device_id: Optional[int] = None  # A3: its number in the super pod (SDID)
    backup_device_ips: "tuple[str, ...]" = ()  # A3
    ports: "Mapping[str, int]" = field(default_factory=dict)  # by the file's own names: device_port, host_port, ...
    local_id: Optional[int] = None  # 2.0: its number on the server
    level_list: "tuple[Mapping[str, Any], ...]" = ()  # 2.0: its addresses in each network layer, as they stand
    other: "Mapping[str, Any]" = field(default_factory=dict)  # fields without a rule of ours, kept


@dataclass(frozen=True)
class Server:
    """One server of the table with its devices, in the table's order."""

    server_id: str
    devices: "tuple[TableDevice, ...]"
    host_ip: Optional[str] = None
    super_pod_id: Optional[str] = None
    other: "Mapping[str, Any]" = field(default_factory=dict)


@dataclass(frozen=True)
class RankTable:
    """A whole rank table."""

    version: str  # one of VERSIONS
    servers: "tuple[Server, ...]"
    status: str = COMPLETED
    other: "Mapping[str, Any]" = field(default_factory=dict)

    def devices(self) -> "Iterator[tuple[Server, TableDevice]]":
        """Yield each device with its server, in the table's order."""
        for server in self.servers:
            for device in server.devices:
                yield server, device

    def devices_by_rank(self) -> "list[int]":
        """Return the device_id of each rank."""
        ranked = sorted(self.devices(), key=lambda place: place[1].rank_id)
        return [device.device_id for _, device in ranked]

    @property
    def rank_count(self) -> int:
        return sum(len(server.devices) for server in self.servers)


class Spot(NamedTuple):
    """A place in a table: a field of it, of a server, or of a device of a server (by their indices)."""

    server: Optional[int] = None
    device: Optional[int] = None
    field: Optional[str] = None


JsonPath = tuple[Union[str, int], ...]  # keys and indices that lead to a value of a JSON document
Place = Union[Spot, JsonPath, int]  # the last: an offset in the text, in characters


@dataclass(frozen=True)
class Fault:
    """A rule that a table breaks, or a text that is none."""

    code: str  # short and stable
    at: Place
    problem: str
    remedy: str
    fatal: bool = True  # False: HCCL takes the table, and what comes of it is the reader's to judge


def spots(table: RankTable, field: str) -> "Iterator[tuple[Spot, Server, TableDevice]]":
    for index, server in enumerate(table.servers):
        for number, device in enumerate(server.devices):
            yield Spot(index, number, field), server, device


def name_of(server: Server, device: TableDevice) -> str:
    return f"device {device.device_id} of server {server.server_id}"
