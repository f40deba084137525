"""Read a rank table of any version, whatever wrote it, and say what in the text is not as it should be."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from orchestrator.findings import Finding, Severity
from orchestrator.ranktable.jsontext import document_in, kind, quoted, without_comments
from orchestrator.ranktable.model import COMPLETED, Fault, JsonPath, Place, RankTable, Server, Spot, TableDevice
from orchestrator.ranktable.positions import line_and_column, offset_of

PORTS = ("device_port", "host_port", "device_vnic_port", "backup_device_port")
LEGACY_GROUP = "hccl_world_group"
_MOST_FAULTS = 200  # of a table that is wrong throughout, the first ones tell enough
_MOST_DIGITS = 10  # an id has fewer: 2^32 has ten


@dataclass(frozen=True)
class Reading:
    """What a text says: the table, if it can be understood, and what is wrong with how it says it."""

    source: str  # the name of the file
    text: str
    table: Optional[RankTable]
    faults: "tuple[Fault, ...]"
    places: "Mapping[tuple[int, int], JsonPath]" = field(
        default_factory=dict
    )  # of (server, device), where not as in 1.x

    def findings(self, faults: "tuple[Fault, ...]") -> "tuple[Finding, ...]":
        """Return *faults* with their places in the text."""
        plain = without_comments(self.text) if faults else ""
        return tuple(
            Finding(
                fault.code,
                Severity.ERROR if fault.fatal else Severity.WARNING,
                "{}:{}:{}".format(self.source, *line_and_column(plain, self._offset(fault.at, plain))),
                fault.problem,
                fault.remedy,
            )
            for fault in faults[:_MOST_FAULTS]
        )

    def _offset(self, at: Place, plain: str) -> int:
        if isinstance(at, int):
            return at
        return offset_of(plain, self._path(at) if isinstance(at, Spot) else at)

    def _path(self, spot: Spot) -> JsonPath:
        tail = () if spot.field is None else (spot.field,)
        if spot.server is None:
            return tail
        if (spot.server, spot.device or 0) in self.places:  # versions whose files are not a list of servers
            return self.places[spot.server, spot.device or 0] + tail
        if spot.device is None:
            return ("server_list", spot.server, *tail)
        return ("server_list", spot.server, "device", spot.device, *tail)


def read(text: str, source: str) -> Reading:
    """Read a rank table. The result has no table, or faults, where *text* is not one."""
    faults: "list[Fault]" = []
    document = document_in(text, faults)
    if document is None:
        return Reading(source, text, None, tuple(faults))
    reader = _Reader(document, faults)
    try:
        table = reader.table()
    except _Unreadable:
        table = None
    return Reading(source, text, table, tuple(faults), reader.places)


class _Unreadable(Exception):
    """What is missing or malformed is so essential that there is nothing to go on with."""


class _Reader:
    """Makes a table of a JSON document, noting on the way what is wrong with it."""

    def __init__(self, document: "dict[str, Any]", faults: "list[Fault]") -> None:
        self.document = document
        self.faults = faults
        self.places: "dict[tuple[int, int], JsonPath]" = {}
        self._spelled_otherwise: "list[JsonPath]" = []
        self._numbers = False  # 2.0 spells its ids as numbers, all others as strings

    def table(self) -> RankTable:
        """Raises _Unreadable, with the reason among the faults."""
        before = len(self.faults)
        table = self._reader()()
        if self._spelled_otherwise:
            first, count = self._spelled_otherwise[0], len(self._spelled_otherwise)
            what = ("a string", "a number") if self._numbers else ("a number", "a string")
            problem = f"{first[-1]} is {what[0]}, where HCCL wants {what[1]}" + f" ({count} such values)" * (count > 1)
            self._add("spelling", first, problem, "`ascendrun rank-table convert FILE` writes it right", fatal=False)
        if any(fault.fatal for fault in self.faults[before:] if fault.code in _SHAPE):
            if table.status != COMPLETED:  # its writer is not done: that is all there is to say
                self.faults[before:] = [unfinished(table.status)]
            raise _Unreadable
        return table

    def _reader(self) -> "Callable[[], RankTable]":
        version = self.document.get("version")
        if isinstance(version, (int, float)) and not isinstance(version, bool):
            self._spelled_otherwise.append(("version",))
            version = f"{version}.0" if isinstance(version, int) else str(version)
        if version is None and "group_list" in self.document:
            return self._legacy
        if version in ("1.0", "1.2"):
            return self._servers_first
        if version == "2.0":
            self._numbers = True
            return self._ranks_first
        known = "1.0, 1.2 (A3 super pods) or 2.0 (A5)"
        if version is None:
            problem = "there is no `version`, and no `group_list` either, which the forms without one have"
            self._add("version", (), problem, f"say which version it is: {known}")
        elif version == "1.1":
            problem = "version 1.1 is for heterogeneous clusters, and no launcher of training jobs can use it"
            self._add("version", ("version",), problem, f"write the table as {known}")
        else:
            problem = f"version {quoted(str(version))}: HCCL knows none such"
            self._add("version", ("version",), problem, f"write {known}")
        raise _Unreadable

    # ── 1.0 and 1.2 ────────────────────────────────────────────────────────────────────────────────────────

    def _servers_first(self) -> RankTable:
        document, version = self.document, str(self.document["version"])
        version = "1.2" if version.startswith("1.2") else "1.0"
        entries = self._list(document, "server_list", ())
        pods = self._super_pods(entries) if version == "1.2" and "super_pod_list" in document else {}
        servers = []
        for index, entry in enumerate(entries):
            path = ("server_list", index)
            server_id = self._text(entry, "server_id", path)
            devices = tuple(
                self._device(device, (*path, "device", number))
                for number, device in enumerate(self._list(entry, "device", path))
            )
            other = _rest(entry, ("server_id", "device", "host_ip"))
            host_ip = self._text(entry, "host_ip", path) if "host_ip" in entry else None
            servers.append(Server(server_id, devices, host_ip, pods.get(server_id), other))
        self._counts(document, "server_count", len(entries), "server_list", (), needed=False)
        known = ("version", "server_count", "server_list", "status", *(("super_pod_list",) if version == "1.2" else ()))
        return RankTable(version, tuple(servers), self._status(), _rest(document, known))

    def _device(self, entry: "dict[str, Any]", path: JsonPath) -> TableDevice:
        get = entry.get
        super_device = "super_device_id" in entry
        return TableDevice(
            self._whole(entry, "rank_id", path),
            self._whole(entry, "device_id", path),
            self._addresses(entry, "device_ip", path) if "device_ip" in entry else (),
            self._whole(entry, "super_device_id", path) if super_device else None,
            self._addresses(entry, "backup_device_ip", path) if "backup_device_ip" in entry else (),
            {name: self._whole(entry, name, path) for name in PORTS if get(name) is not None},
            other=_rest(entry, _DEVICE_FIELDS),
        )

    def _super_pods(self, servers: "list[dict[str, Any]]") -> "dict[str, str]":
        """Return the super pod of each server; what lists disagree about is noted."""
        pods: "dict[str, str]" = {}
        ids: "set[str]" = set()
        known = {str(server.get("server_id")) for server in servers}
        for index, entry in enumerate(self._list(self.document, "super_pod_list", ())):
            path = ("super_pod_list", index)
            pod = self._text(entry, "super_pod_id", path)
            if pod in ids:
                problem = f"super_pod_id {quoted(pod)} is there twice"
                self._add("super-pod", (*path, "super_pod_id"), problem, "list all servers of a super pod in one entry")
            ids.add(pod)
            for number, server in enumerate(self._list(entry, "server_list", path)):
                place = (*path, "server_list", number)
                server_id = self._text(server, "server_id", place)
                if server_id not in known:
                    problem = f"super pod {pod} lists server {quoted(server_id)}, which server_list does not have"
                    self._add("super-pod", (*place, "server_id"), problem, "the two lists must have the same servers")
                elif server_id in pods:
                    problem = f"server {quoted(server_id)} is in two super pods, {pods[server_id]} and {pod}"
                    self._add("super-pod", (*place, "server_id"), problem, "a server is in one super pod")
                pods.setdefault(server_id, pod)
        return pods

    # ── 2.0 ────────────────────────────────────────────────────────────────────────────────────────────────

    def _ranks_first(self) -> RankTable:
        devices: "dict[str, list[TableDevice]]" = {}
        index_of: "dict[str, int]" = {}
        for index, entry in enumerate(self._list(self.document, "rank_list", ())):
            path = ("rank_list", index)
            levels = self._list(entry, "level_list", path)
            for number, level in enumerate(levels):
                for place, address in enumerate(self._list(level, "rank_addr_list", (*path, "level_list", number))):
                    self._text(address, "addr", (*path, "level_list", number, "rank_addr_list", place))
            device = TableDevice(
                self._whole(entry, "rank_id", path),
                self._whole(entry, "device_id", path),
                ports={name: self._whole(entry, name, path) for name in PORTS if entry.get(name) is not None},
                local_id=self._whole(entry, "local_id", path),
                level_list=tuple(levels),
                other=_rest(entry, (*_DEVICE_FIELDS, "local_id", "level_list")),
            )
            # the innermost layer is the server's own: devices that share its instance are one server's
            server = str(levels[0].get("net_instance_id", "")) if levels else ""
            index_of.setdefault(server, len(index_of))
            of_server = devices.setdefault(server, [])
            self.places[index_of[server], len(of_server)] = path
            of_server.append(device)
        self._counts(self.document, "rank_count", sum(map(len, devices.values())), "rank_list", ())
        servers = tuple(Server(server_id, tuple(found)) for server_id, found in devices.items())
        other = _rest(self.document, ("version", "rank_count", "rank_list", "status"))
        return RankTable("2.0", servers, self._status(needed=False), other)

    # ── before there were versions ─────────────────────────────────────────────────────────────────────────

    def _legacy(self) -> RankTable:
        """Read both forms of `group_list`; of the later one, which has no rank ids, the order counts."""
        document = self.document
        lab = "deploy_mode" in document
        groups = self._list(document, "group_list", ())
        if len(groups) != 1:
            problem = f"group_list has {len(groups)} groups; a training job is one"
            self._add("group", ("group_list",), problem, "keep one group")
            raise _Unreadable
        path = ("group_list", 0)
        instances = self._list(groups[0], "instance_list", path)
        found: "dict[str, tuple[list[TableDevice], dict[str, Any]]]" = {}
        index_of: "dict[str, int]" = {}
        rank = 0
        for index, instance in enumerate(instances):
            place = (*path, "instance_list", index)
            server_id = self._text(instance, "server_id", place)
            known = ("server_id", "devices", *(("rank_id",) if lab else ()))
            devices, _ = found.setdefault(server_id, ([], _rest(instance, known)))
            index_of.setdefault(server_id, len(index_of))
            for number, device in enumerate(self._list(instance, "devices", place)):
                rank_id = self._whole(instance, "rank_id", place) if lab else rank
                spot = (*place, "devices", number)
                self.places[index_of[server_id], len(devices)] = spot
                device_id = self._whole(device, "device_id", spot)
                device_ips = self._addresses(device, "device_ip", spot) if "device_ip" in device else ()
                other = _rest(device, ("device_id", "device_ip"))
                devices.append(TableDevice(rank_id, device_id, device_ips, other=other))
                rank += 1
        self._counts(document, "group_count", 1, "group_list", ())
        self._counts(groups[0], "instance_count", len(instances), "instance_list", path)
        self._counts(groups[0], "device_num" if lab else "device_count", rank, "devices", path, of="devices in all")
        if lab:
            self._counts(groups[0], "server_num", len(found), "server_id", path, of="different servers")
            if document.get("para_plane_nic_location") != "device":
                problem = "para_plane_nic_location must be `device`"
                self._add("group", ("para_plane_nic_location",), problem, 'write "device"')
        servers = tuple(Server(server_id, tuple(devices), other=other) for server_id, (devices, other) in found.items())
        known = ("group_count", "group_list", "status", *(("deploy_mode", "para_plane_nic_location") if lab else ()))
        other = _rest(document, known)
        if groups[0].get("group_name") not in (None, LEGACY_GROUP, ""):
            other["group_name"] = groups[0]["group_name"]
        return RankTable("legacy-lab" if lab else "legacy", servers, self._status(), other)

    # ── fields ─────────────────────────────────────────────────────────────────────────────────────────────

    def _add(self, code: str, path: JsonPath, problem: str, remedy: str, *, fatal: bool = True) -> None:
        self.faults.append(Fault(code, path, problem, remedy, fatal))

    def _missing(self, path: JsonPath, name: str) -> None:
        self._add(
            "field-missing",
            path,
            f"`{name}` is missing",
            "add it, or write the table anew with `ascendrun rank-table`",
        )

    def _list(self, holder: "dict[str, Any]", name: str, path: JsonPath) -> "list[dict[str, Any]]":
        """Return a list of objects; an empty one where it is missing or something else, which is noted."""
        if name not in holder:
            self._missing(path, name)
            return []
        value = holder[name]
        if not isinstance(value, list):
            self._add("field-type", (*path, name), f"`{name}` is {kind(value)} and must be a list", "write [...]")
            return []
        for index, entry in enumerate(value):
            if not isinstance(entry, dict):
                problem = f"entry {index} of `{name}` is {kind(entry)} and must be an object"
                self._add("field-type", (*path, name, index), problem, "write {...}")
                return []
        return value

    def _text(self, holder: "dict[str, Any]", name: str, path: JsonPath) -> str:
        value = holder.get(name)
        if isinstance(value, str):
            return value
        if name not in holder:
            self._missing(path, name)
        elif isinstance(value, int) and not isinstance(value, bool):
            self._spelled_otherwise.append((*path, name))
            return str(value)
        else:
            self._add("field-type", (*path, name), f"`{name}` is {kind(value)} and must be a text", 'write "..."')
        return ""

    def _whole(self, holder: "dict[str, Any]", name: str, path: JsonPath) -> int:
        """Return a whole number from 0, spelled as a string or a number; 0 where it is none, which is noted."""
        value = holder.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS:
            if self._numbers:
                self._spelled_otherwise.append((*path, name))
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**_MOST_DIGITS:
            if not self._numbers:
                self._spelled_otherwise.append((*path, name))
            return value
        if name not in holder:
            self._missing(path, name)
        else:
            shown = quoted(value) if isinstance(value, str) else quoted(json.dumps(value))
            problem = f"`{name}` is {shown} and must be a whole number from 0"
            self._add("field-type", (*path, name), problem, 'write one, as in "0"')
        return 0

    def _addresses(self, holder: "dict[str, Any]", name: str, path: JsonPath) -> "tuple[str, ...]":
        text = self._text(holder, name, path)
        bare = "".join(text.split())
        if bare != text:
            problem = f"{name} {quoted(json.dumps(text))} has blanks, and HCCL does not pass over them"
            self._add("spelling", (*path, name), problem, "take them out, or `ascendrun rank-table convert FILE`")
        return tuple(bare.split(",")) if bare else ()

    def _counts(
        self,
        holder: "dict[str, Any]",
        name: str,
        count: int,
        what: str,
        path: JsonPath,
        *,
        of: str = "entries",
        needed: bool = True,
    ) -> None:
        if name not in holder:
            if needed:
                self._missing(path, name)
            else:
                problem = f"`{name}` is missing; some versions of HCCL want it"
                self._add("count", path, problem, f'add "{name}": "{count}"', fatal=False)
            return
        said = self._whole(holder, name, path)
        if said != count:
            problem = f"{name} says {said}, and there are {count} {of}" + f" in {what}" * (of == "entries")
            self._add("count", (*path, name), problem, f"write {count}, or add what is missing")

    def _status(self, *, needed: bool = True) -> str:
        if "status" not in self.document:
            if needed:
                self._missing((), "status")
            return COMPLETED
        return self._text(self.document, "status", ())


def unfinished(status: str) -> Fault:
    problem = f"status is {quoted(status)}: whoever writes this table has not finished"
    return Fault("status", ("status",), problem, "wait until it says completed, or write the table anew")


_SHAPE = ("field-missing", "field-type")  # what leaves nothing for the rules to go by
_DEVICE_FIELDS = ("rank_id", "device_id", "device_ip", "super_device_id", "backup_device_ip", *PORTS)


def _rest(entry: "Mapping[str, Any]", known: "tuple[str, ...]") -> "dict[str, Any]":
    return {key: value for key, value in entry.items() if key not in known}
