"""Rank tables in and out: from files and live hosts, into files, checked on both ways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Optional, Union

from orchestrator import addresses
from orchestrator.addresses import Found
from orchestrator.errors import AscendrunError, HostError, SpecError
from orchestrator.findings import Finding, Severity
from orchestrator.inventory import Device, Host, select_devices, spell_ids
from orchestrator.ranktable import building
from orchestrator.ranktable.addressing import address_of
from orchestrator.ranktable.model import RankTable
from orchestrator.ranktable.reading import Reading, read
from orchestrator.ranktable.rules import check
from orchestrator.render import render, render_users
from orchestrator.supervisor.rundir import write_atomically
from orchestrator.textfiles import MARK, read_text
from orchestrator.transport.local import Local

MOST_BYTES = 64 << 20  # 65,536 ranks of version 2.0 take some 60 MB, 80,000 of version 1.0 seven
_MOST_SMALL_BYTES = 4 << 20

# What is put right by writing a table anew, and by numbering its ranks anew.
BY_WRITING = frozenset({"byte-order-mark", "comment", "spelling", "count"})
BY_NUMBERING = frozenset({"rank-twice", "rank-range", "rank-missing", "ranks-interleaved", "servers-order"})


# ── files ──────────────────────────────────────────────────────────────────────────────────────────────────


def load(name: str) -> Reading:
    """Read the rank table in a file, or with `-` on standard input. Raises SpecError where it cannot be read."""
    return read(read_text(name, MOST_BYTES, "rank table"), name)


def findings(reading: Reading, product: Optional[str] = None) -> "tuple[Finding, ...]":
    """Return all that is wrong with what was read; nothing for a table that HCCL and MindSpore take."""
    faults = reading.faults
    if reading.table is not None:
        faults += check(reading.table, product)
    return reading.findings(faults)


def usable(reading: Reading, cured: "frozenset[str]" = BY_WRITING) -> RankTable:
    """Return the table that was read; faults of the *cured* kinds are passed over, being put right by what follows.

    Raises RankTableError with what is wrong.
    """
    found = reading.findings(tuple(fault for fault in reading.faults if fault.code not in cured))
    if reading.table is None or _errors(found):
        raise RankTableError(reading.source, found)
    return reading.table


def text_of(table: RankTable, *, product: Optional[str] = None) -> "tuple[str, tuple[Finding, ...]]":
    """Return *table* as its version writes it, and what speaks against it all the same.

    Raises RankTableError where HCCL or MindSpore would refuse it.
    """
    text = render(f"rank_table/{table.version}.json.j2", table=table)
    reading = read(text, "this table")
    found = findings(reading, product)
    if _errors(found):
        raise RankTableError("the table would be refused", [replace(one, where="") for one in found])
    if reading.table != table:
        raise AscendrunError(
            f"the template of version {table.version} does not write what it was given; tell its owner"
        )
    return text, found


def text_by(template: str, table: RankTable) -> str:
    """Return what a user's own template makes of *table*. Raises SpecError naming the template and the line."""
    return render_users(text_in(template, "template"), template, {"table": asdict(table)})


def write(text: str, name: str) -> None:
    """Write a table so that no reader sees half of it. Raises SpecError."""
    path = Path(name)
    try:
        if path.exists() and not path.is_file():
            if path.is_dir():
                raise SpecError(f"{name}: is a folder; give the name of a file")
            path.write_text(text, encoding="utf-8")  # a pipe, a terminal
        else:
            write_atomically(path, text)
    except OSError as exc:
        raise SpecError(f"cannot write {name}: {exc.strerror}") from exc


def server_order(name: str) -> "list[str]":
    """Read the file of `--order`: a server_id a line, `#` begins a comment. Raises SpecError."""
    lines = (line.partition("#")[0].strip() for line in text_in(name, "list of servers").splitlines())
    return [line for line in lines if line]


def make(
    found: "Sequence[Found]", version: Optional[str], order: "Optional[Sequence[str]]"
) -> "tuple[RankTable, Optional[str]]":
    """Return the table of all that was found, and the product if it is the same everywhere. Raises SpecError."""
    products = {one.product for one in found}
    table = building.build([one.server for one in found], version, order)
    return table, products.pop() if len(products) == 1 else None


def of_this_machine(devices: str) -> "tuple[RankTable, str]":
    """Return the rank table of *devices* (as `--devices`) of the machine we run on, and its text.

    Raises HostError or SpecError.
    """
    found = addresses.choose(addresses.ask(addresses.this_machine(None), Local()), devices)
    table, product = make([found], None, None)
    return table, text_of(table, product=product)[0]


def of_users(name: str, devices: Optional[str], host: Host) -> "tuple[RankTable, str]":
    """Return the rank table in a user's file, for a run on this machine, *host*, and its text as the user wrote it.

    Raises SpecError where HCCL would refuse it, where it tells of other servers or devices than there are, or where
    *devices* means others. HostError where the machine cannot be asked.
    """
    table, text = _of_users(name)
    if len(table.servers) > 1:
        raise SpecError(f"{name}: has {len(table.servers)} servers, and this run is on one machine: give --hosts")
    ids = sorted(table.devices_by_rank())
    missing = sorted(set(ids) - {device.device_id for device in host.devices})
    if missing:
        raise SpecError(f"{name}: this machine has no device {spell_ids(missing)}")
    if devices is not None and len(select_devices(devices, [Device(one) for one in ids])) < len(ids):
        raise SpecError(f"--devices {devices}: {name} has ranks on devices {spell_ids(ids)}, and all of them must run")
    if host.backend == "ascend":
        server_id = table.servers[0].server_id
        there = addresses.ask(addresses.this_machine(server_id), Local())
        if wrong := differences(table, {server_id: there}):
            raise RankTableError(name, wrong)
    return table, text


def of_users_hosts(name: str, live: "Mapping[str, Found]") -> "tuple[RankTable, str]":
    """Return the rank table in a user's file, for a run on hosts that were asked, by server_id, and its text.

    Raises SpecError where HCCL would refuse it, or it is not true of the hosts.
    """
    table, text = _of_users(name)
    if wrong := differences(table, live):
        raise RankTableError(name, wrong)
    idle = sorted(set(live) - {server.server_id for server in table.servers})
    if idle:
        raise SpecError(f"{name}: has no rank on {', '.join(idle)}, which the hosts file names")
    return table, text


def _of_users(name: str) -> "tuple[RankTable, str]":
    reading = load(name)
    table = usable(reading, frozenset())
    found = findings(reading)
    if _errors(found):
        raise RankTableError(name, found)
    return table, reading.text


def differences(table: RankTable, live: "Mapping[str, Union[Found, HostError]]") -> "tuple[Finding, ...]":
    """Compare a table with what its servers, by server_id, say of themselves."""
    found: "list[Finding]" = []

    def add(where: str, code: str, problem: str, remedy: str) -> None:
        found.append(Finding(code, Severity.ERROR, where, problem, remedy))

    for server in table.servers:
        there = live.get(server.server_id)
        if there is None or isinstance(there, HostError):
            add(server.server_id, "host-silent", str(there or "was not asked"), "see `ascendrun hosts`")
            continue
        devices = {device.device_id: device for device in there.server.devices}
        for device in server.devices:
            name = f"device {device.device_id} of server {server.server_id}"
            other = devices.get(device.device_id)
            if other is None:
                has = spell_ids(sorted(devices))
                add(server.server_id, "device-gone", f"{name} is not there; the host has {has}", "write the table anew")
                continue
            mine = {address_of(text) for text in device.device_ips}  # an IPv6 address is spelled in several ways
            if mine and not mine.issuperset(map(address_of, other.device_ips)):  # of several, a host tells one
                problem = f"{name} has the address {other.device_ips[0]}, the table says {','.join(device.device_ips)}"
                add(server.server_id, "address-differs", problem, "write the table anew, or set the card's address")
            sdids = (device.super_device_id, other.super_device_id)
            if None not in sdids and sdids[0] != sdids[1]:
                problem = f"{name} has the super_device_id {sdids[1]}, the table says {sdids[0]}"
                add(server.server_id, "super-device-differs", problem, "write the table anew")
    return tuple(found)


class RankTableError(SpecError):
    """A rank table that cannot be used; *findings* say why."""

    def __init__(self, source: str, findings: "Sequence[Finding]") -> None:
        self.findings = tuple(findings)
        first = next(iter(_errors(self.findings)), self.findings[0])
        more = len(_errors(self.findings)) - 1
        where = first.where or source
        text = f"{where}: {first.problem}; {first.remedy}"
        super().__init__(text + f" (and {more} more: `ascendrun rank-table check` has all)" * (more > 0))


def _errors(found: "Iterable[Finding]") -> "list[Finding]":
    return [one for one in found if one.severity is Severity.ERROR]


def text_in(name: str, what: str) -> str:
    """Return the text of a small file, or with `-` of standard input. Raises SpecError where it cannot be *what*."""
    return read_text(name, _MOST_SMALL_BYTES, what).removeprefix(MARK)
