"""What HCCL asks of the addresses in a rank table. Sources: as in `rules`."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Optional, Union

from orchestrator.ranktable.model import Fault, RankTable, Server, Spot, TableDevice, name_of, spots


def device_addresses(table: RankTable, product: Optional[str]) -> "Iterator[Fault]":
    first: "dict[str, tuple[Server, TableDevice]]" = {}
    family: Optional[int] = None
    count: Optional[int] = None
    for spot, server, device in spots(table, "device_ip"):
        if count and device.device_ips and len(device.device_ips) != count:
            problem = f"{name_of(server, device)} has {len(device.device_ips)} addresses, the first device has {count}"
            yield Fault("address-count", spot, problem, "give every device the same number of addresses")
        count = len(device.device_ips) if count is None else count
        for text in device.device_ips:
            remedy = f"write what `hccn_tool -i {device.device_id} -ip -g` says on that server"
            address = address_of(text)
            if address is None or not _is_of_one(text):
                problem = f"device_ip {text!r} of {name_of(server, device)} is no address of a device"
                yield Fault("address", spot, problem, remedy)
                continue
            key = text if address.version == 4 else address.compressed
            if key in first:
                problem = f"device_ip {text} is there twice: for {name_of(*first[key])} and {name_of(server, device)}"
                yield Fault("address-twice", spot, problem, remedy)
            first.setdefault(key, (server, device))
            if family is not None and address.version != family:
                name = name_of(server, device)
                problem = f"device_ip {text} of {name} is IPv{address.version}, the first is IPv{family}"
                yield Fault("address-family", spot, problem, "HCCL wants one family in the whole table")
            family = family or address.version
            if text.startswith("127.") and len(table.servers) > 1:
                problem = f"device_ip {text} of {name_of(server, device)} is one that no other server reaches"
                yield Fault("address", spot, problem, remedy, fatal=False)


def addresses_are_there(table: RankTable, product: Optional[str]) -> "Iterator[Fault]":
    if table.version == "2.0":
        return
    some = any(device.device_ips for _, device in table.devices())
    pods = {server.super_pod_id for server in table.servers}
    in_one_pod = product == "A3" and len(pods) == 1 and None not in pods  # joined by HCCS, not by network cards
    by_host = all(server.host_ip for server in table.servers) and product != "A2"
    needed = product == "910A" or (len(table.servers) > 1 and not in_one_pod and not by_host)
    if not needed and not some:
        return
    for spot, server, device in spots(table, "device_ip"):
        if not device.device_ips:
            problem = f"{name_of(server, device)} has no device_ip" + ", and others have" * (some and not needed)
            remedy = f"write what `hccn_tool -i {device.device_id} -ip -g` says on that server"
            yield Fault("address-missing", Spot(spot.server, spot.device), problem, remedy, fatal=needed)


def subnets(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    """Find the card that is in another subnet than its like.

    On one server all cards share a subnet, or each has its own, or (910A) each shares one with the card 4 further.
    """
    for index, server in enumerate(table.servers):
        nets = {device.device_id: _subnet(device.device_ips[0]) for device in server.devices if device.device_ips}
        if not nets or len(nets) < len(server.devices) or None in nets.values():
            continue  # told of elsewhere
        usual, count = Counter(nets.values()).most_common(1)[0]
        apart = [(one, one + 4) for one in nets if one + 4 in nets and nets[one] != nets[one + 4]]
        pairs = sum(one + 4 in nets for one in nets)
        if count > len(nets) / 2:
            strangers = [one for one in nets if nets[one] != usual]
            said = [
                f"device {one} is in {_spell_subnet(nets[one])}, the others in {_spell_subnet(usual)}"
                for one in strangers
            ]
        elif len(apart) < pairs / 2:
            said = [
                f"devices {a} and {b} are in {_spell_subnet(nets[a])} and {_spell_subnet(nets[b])}, "
                "while other such pairs share one"
                for a, b in apart
            ]
        else:
            said = []
        for reason in said:
            problem = f"{reason} (server {server.server_id})"
            remedy = "make sure that they reach one another, or correct the address with `hccn_tool -i N -ip -s`"
            yield Fault("subnet", Spot(index), problem, remedy, fatal=False)


def backup_addresses(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    first: "dict[str, str]" = {}
    for spot, server, device in spots(table, "backup_device_ip"):
        for text in device.backup_device_ips:
            address = address_of(text)
            if address is None:
                problem = f"backup_device_ip {text!r} of {name_of(server, device)} is no IP address"
                yield Fault("address", spot, problem, "write the address of the card's other die")
            elif text in device.device_ips:
                problem = f"backup_device_ip {text} of {name_of(server, device)} is its own address"
                yield Fault("address", spot, problem, "write the address of the card's other die")
            elif text in first:
                problem = f"backup_device_ip {text} is there twice: for {first[text]} and {name_of(server, device)}"
                yield Fault("address-twice", spot, problem, "write the address of the card's other die")
            first.setdefault(text, name_of(server, device))


def ports(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    for index, server in enumerate(table.servers):
        for number, device in enumerate(server.devices):
            for name, port in device.ports.items():
                if not 1 <= port <= 65535:
                    problem = f"{name} {port} of {name_of(server, device)} is no port"
                    yield Fault("port", Spot(index, number, name), problem, "write 1024 to 65535, or leave it out")


# ── network layers (2.0) ───────────────────────────────────────────────────────────────────────────────────

_MOST_LEVELS, _MOST_ADDRESSES, _MOST_RANKS = 8, 24, 65536


def levels(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    if table.version != "2.0":
        return
    if table.rank_count > _MOST_RANKS:
        problem = f"the table has {table.rank_count} ranks; 2.0 has room for {_MOST_RANKS}"
        yield Fault("rank-range", Spot(field="rank_count"), problem, "make the job smaller")
    first: "dict[tuple[str, str], str]" = {}
    for spot, _server, device in spots(table, "level_list"):
        name = f"rank {device.rank_id}"
        layers = [level.get("net_layer") for level in device.level_list]
        if not 1 <= len(layers) <= _MOST_LEVELS:
            yield Fault("level", spot, f"{name} has {len(layers)} network layers", f"give it 1 to {_MOST_LEVELS}")
        elif layers[0] != 0 or layers != [layer for layer in range(_MOST_LEVELS) if layer in layers]:
            remedy = f"list layers from 0 to {_MOST_LEVELS - 1}, ascending, each once, and layer 0 first"
            yield Fault("level", spot, f"the net_layers of {name} are {layers}", remedy)
        for level in device.level_list:
            for code, problem, remedy in _faults_of_level(level):
                yield Fault(code, spot, f"{problem}, in layer {level.get('net_layer')} of {name}", remedy)
            for entry in level.get("rank_addr_list") or ():
                key = (str(level.get("net_layer")), str(entry.get("addr")))
                if first.setdefault(key, name) != name:
                    problem = f"addr {key[1]} is there twice in layer {key[0]}: for {first[key]} and {name}"
                    yield Fault("address-twice", spot, problem, "each rank has addresses of its own")


def _faults_of_level(level: "Mapping[str, Any]") -> "Iterator[tuple[str, str, str]]":
    """Yield code, problem and remedy of what is wrong within one layer of one rank."""
    kinds = ("TOPO_FILE_DESC",) if level.get("net_layer") == 0 else ("TOPO_FILE_DESC", "CLOS")
    if level.get("net_type") not in kinds:
        yield "level", f"net_type is {level.get('net_type')!r}", f"write {' or '.join(kinds)}"
    if not level.get("net_instance_id"):
        yield "level", "there is no net_instance_id", "give the instance of that layer a name"
    addresses = level.get("rank_addr_list") or ()
    if not 1 <= len(addresses) <= _MOST_ADDRESSES:
        yield "level", f"there are {len(addresses)} addresses", f"give it 1 to {_MOST_ADDRESSES}"
    for entry in addresses:
        kind, text = str(entry.get("addr_type")), str(entry.get("addr"))
        if not _is_of_kind(kind, text):
            yield "address", f"addr {text!r} is none of type {kind}", "addr_type is EID (32 hex digits), IPV4 or IPV6"
        if not entry.get("ports"):
            yield "level", f"addr {text} has no ports", 'list the ports behind it, as in ["0/4"]'


@lru_cache(maxsize=1 << 17)  # each is asked for by several rules
def address_of(text: str) -> "Optional[Union[ipaddress.IPv4Address, ipaddress.IPv6Address]]":
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_of_one(text: str) -> bool:
    """Say whether an address can be that of one device: neither of nobody nor of many."""
    if ":" not in text:  # what `ipaddress` would take five times as long for
        return text != "0.0.0.0" and int(text.partition(".")[0]) < 224
    address = address_of(text)
    return address is not None and not (address.is_unspecified or address.is_multicast or address.is_loopback)


def _subnet(text: str) -> "Optional[tuple[int, int]]":
    """Return IP version and prefix of the /24 (IPv6: /64) of an address: a table has no netmask, these are usual."""
    address = address_of(text)
    return None if address is None else (address.version, int(address) >> (8 if address.version == 4 else 64))


def _spell_subnet(subnet: "Optional[tuple[int, int]]") -> str:
    assert subnet is not None, "the caller has looked"
    version, prefix = subnet
    if version == 4:
        return f"{ipaddress.IPv4Address(prefix << 8)}/24"
    return f"{ipaddress.IPv6Address(prefix << 64)}/64"


def _is_of_kind(kind: str, text: str) -> bool:
    if kind == "EID":
        return len(text) == 32 and all(digit in "0123456789abcdefABCDEF" for digit in text)
    address = address_of(text)
    return address is not None and kind == f"IPV{address.version}"
