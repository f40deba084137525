"""Make rank tables: of servers and their devices, of other tables, and of one version from another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Optional

from orchestrator.errors import SpecError, nearest
from orchestrator.inventory import spell_ids
from orchestrator.ranktable.model import VERSIONS, RankTable, Server, TableDevice

# What the form with `deploy_mode` says besides servers and devices, where nobody said otherwise.
_LAB = {"board_id": "0x0020", "chip_info": "910"}


def build(
    servers: "Iterable[Server]", version: Optional[str] = None, order: "Optional[Sequence[str]]" = None
) -> RankTable:
    """Return the table of *servers*, whose ranks are numbered here.

    *version* is by default the one that the devices ask for. *order* is as for `numbered`. Raises SpecError.
    """
    found = tuple(servers)
    devices = [device for server in found for device in server.devices]
    if version is None:
        version = "2.0" if any(one.level_list for one in devices) else "1.0"
        if devices and all(one.super_device_id is not None for one in devices) and all(s.super_pod_id for s in found):
            version = "1.2"
    return convert(RankTable("1.2", numbered(found, order)), version)


def numbered(servers: "Sequence[Server]", order: "Optional[Sequence[str]]" = None) -> "tuple[Server, ...]":
    """Return *servers* in the order in which their ranks count, with ranks 0, 1, 2, ... on their devices in order.

    Servers go by their ids as texts, which is how MindSpore counts them, those of one super pod together; *order*, a
    list of all server_ids, says otherwise. Raises SpecError for an order that does not name each server once.
    """
    if order is None:
        first_of_pod: "dict[Optional[str], str]" = {}
        for server in servers:
            known = first_of_pod.get(server.super_pod_id, server.server_id)
            first_of_pod[server.super_pod_id] = min(known, server.server_id)
        ranked = sorted(
            servers, key=lambda one: (first_of_pod[one.super_pod_id], one.super_pod_id or "", one.server_id)
        )
    else:
        ranked = _in_order(servers, order)
    rank = 0
    result = []
    for server in ranked:
        devices = tuple(replace(device, rank_id=rank + index) for index, device in enumerate(server.devices))
        rank += len(devices)
        result.append(replace(server, devices=devices))
    return tuple(result)


def merge(tables: "Sequence[RankTable]", order: "Optional[Sequence[str]]" = None) -> RankTable:
    """Return one table of all servers of *tables*, numbered anew. A server may be spread over tables.

    Raises SpecError where the tables contradict one another, naming on what.
    """
    versions = sorted({table.version for table in tables})
    if len(versions) > 1:
        raise SpecError(
            f"these tables are of versions {' and '.join(versions)}; bring them to one version first: "
            "ascendrun rank-table convert FILE --version 1.0"
        )
    servers: "dict[str, Server]" = {}
    for table in tables:
        for server in table.servers:
            before = servers.get(server.server_id)
            servers[server.server_id] = _by_rank(server) if before is None else _joined(before, server)
    other: "Mapping[str, Any]" = {}
    for table in tables:
        other = _union(other, table.other, "the tables")
    return RankTable(versions[0], numbered(tuple(servers.values()), order), other=other)


def convert(table: RankTable, version: str) -> RankTable:
    """Return *table* as another version says it; fields that this version has no place for are left out.

    Raises SpecError where the version needs what the table does not know.
    """
    if version not in VERSIONS:
        raise SpecError(f"--version {version}: there is none such{nearest(version, VERSIONS)}")
    if version == table.version:
        return table
    if table.version == "2.0":
        raise SpecError(f"a table of version 2.0 tells of A5 servers, and version {version} cannot")
    if version == "2.0":
        without = [device.device_id for _, device in table.devices() if not device.level_list]
        if without:
            raise SpecError(
                f"version 2.0 (A5) needs the network layers of every device, and they are not known for device "
                f"{spell_ids(sorted(set(without)))}: give each its level_list in the hosts file"
            )
    servers = tuple(_kept(server, version, table.version) for server in table.servers)
    if version == "2.0":
        servers = _by_instance(servers)
    if version.startswith("legacy"):
        servers = tuple(sorted((_by_rank(one) for one in servers), key=lambda one: min(d.rank_id for d in one.devices)))
        ranks = [device.rank_id for server in servers for device in server.devices]
        if ranks != list(range(len(ranks))):
            raise SpecError("the form without version has no rank ids: ranks must run through server after server")
    other = table.other if _family(version) == _family(table.version) else {}
    other = {name: value for name, value in other.items() if name != "super_pod_list"}  # 1.0 has no use for one
    if version == "legacy-lab":
        cards = sorted({device.device_id for server in servers for device in server.devices})
        names = [f"eth{card}" for card in cards]
        other = {**_LAB, "para_plane_nic_name": names, "para_plane_nic_num": str(len(names))}
    return RankTable(version, servers, table.status, other)


def _kept(server: Server, version: str, before: str) -> Server:
    """Return of a server what *version* has a place for."""
    if version == "1.2":
        return server if before == "1.0" else replace(server, other={}, devices=tuple(map(_plain, server.devices)))
    if version == "1.0":
        same = _family(before) == "servers"
        devices = server.devices if same else tuple(map(_plain, server.devices))
        return replace(server, super_pod_id=None, devices=devices, other=server.other if same else {})
    if version == "2.0":
        devices = tuple(
            # by its physical id a device is known to the file that describes the server's wiring
            TableDevice(one.rank_id, one.device_id, ports=one.ports, local_id=one.device_id, level_list=one.level_list)
            for one in server.devices
        )
        return Server(str(server.devices[0].level_list[0].get("net_instance_id", "")), devices)
    devices = tuple(TableDevice(one.rank_id, one.device_id, one.device_ips) for one in server.devices)
    return Server(server.server_id, devices, other={"pod_name": server.server_id} if version == "legacy" else {})


def _by_instance(servers: "Sequence[Server]") -> "tuple[Server, ...]":
    """Return the servers as 2.0 knows them: those of one instance of layer 0 are one."""
    devices: "dict[str, tuple[TableDevice, ...]]" = {}
    for server in servers:
        devices[server.server_id] = (*devices.get(server.server_id, ()), *server.devices)
    return tuple(Server(instance, of_it) for instance, of_it in devices.items())


def _plain(device: TableDevice) -> TableDevice:
    return replace(device, other={})


def _family(version: str) -> str:
    return {"1.0": "servers", "1.2": "servers"}.get(version, version)


def _by_rank(server: Server) -> Server:
    return replace(server, devices=tuple(sorted(server.devices, key=lambda device: device.rank_id)))


def _joined(one: Server, two: Server) -> Server:
    """Return the server of which both are parts."""
    name = f"server {one.server_id}"
    twice = sorted({device.device_id for device in one.devices} & {device.device_id for device in two.devices})
    if twice:
        raise SpecError(f"device {spell_ids(twice)} of {name} is in more than one of the tables")
    for what, mine, other in (
        ("host_ip", one.host_ip, two.host_ip),
        ("super_pod_id", one.super_pod_id, two.super_pod_id),
    ):
        if mine != other:
            raise SpecError(f"the tables disagree on the {what} of {name}: {mine} or {other}")
    devices = tuple(sorted((*one.devices, *two.devices), key=lambda device: device.device_id))
    return replace(one, devices=devices, other=_union(one.other, two.other, name))


def _union(one: "Mapping[str, Any]", two: "Mapping[str, Any]", what: str) -> "dict[str, Any]":
    for key in one.keys() & two.keys():
        if one[key] != two[key]:
            raise SpecError(f"{what} disagree on `{key}`: {one[key]!r} or {two[key]!r}")
    return {**one, **two}


def _in_order(servers: "Sequence[Server]", order: "Sequence[str]") -> "list[Server]":
    by_id = {server.server_id: server for server in servers}
    for server_id in order:
        if server_id not in by_id:
            raise SpecError(f"--order: there is no server {server_id!r}{nearest(server_id, by_id)}")
    counts = Counter(order)
    missing = [server_id for server_id in by_id if server_id not in counts]
    twice = [server_id for server_id, count in counts.items() if count > 1]
    if missing or twice:
        wrong = f"{' '.join(missing)} is missing" if missing else f"{' '.join(twice)} is there twice"
        raise SpecError(f"--order must name each server once: {wrong}")
    return [by_id[server_id] for server_id in order]
