"""What HCCL and MindSpore ask of a rank table, one function a rule. Sources: HCCL's parsers of rank tables and its
documents of each version, MindSpore's tutorial of rank-table start.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Optional, Union

from orchestrator.inventory import spell_ids
from orchestrator.ranktable.model import COMPLETED, Fault, RankTable, Server, Spot, TableDevice
from orchestrator.ranktable.products import MOST_DEVICES, PRODUCTS, doubt, refusal
from orchestrator.ranktable.reading import unfinished

_LONGEST_SERVER_ID = 64  # characters
_MOST_OF_A_KIND = 20  # faults of one code: a table that is wrong throughout is told so once


def check(table: RankTable, product: Optional[str] = None) -> "tuple[Fault, ...]":
    """Return what is wrong with *table*; nothing for one that HCCL and MindSpore take.

    *product* is one of PRODUCTS; None: what the table itself tells of it.
    """
    product = product or product_of(table)
    found: "list[Fault]" = []
    for rule in _RULES:
        for number, fault in enumerate(rule(table, product)):
            if number == _MOST_OF_A_KIND:
                break
            found.append(fault)
    return tuple(found)


def product_of(table: RankTable) -> Optional[str]:
    """Return the product that a table gives away; None where it could be several."""
    if table.version == "2.0":
        return "A5"
    if table.version.startswith("legacy"):
        return "910A"
    if any(device.super_device_id is not None for _, device in table.devices()):
        return "A3"
    kinds = {str(server.other.get("hardware_type", "")) for server in table.servers}
    for product in ("A2", "A3"):
        if kinds and all(f"-{product}-" in f"{kind}-" for kind in kinds):
            return product
    return None


# ── the table as a whole ───────────────────────────────────────────────────────────────────────────────────


def _is_completed(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    if table.status != COMPLETED:
        yield unfinished(table.status)


def _has_ranks(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    if not table.servers:
        yield _fault("empty", Spot(), "the table has no server", "write it anew with `ascendrun rank-table`")
    for index, server in enumerate(table.servers):
        if not server.devices:
            problem = f"server {server.server_id!r} has no device"
            yield _fault("empty", Spot(index), problem, "take the server out, or add its devices")


def _server_ids(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    first: "dict[str, int]" = {}
    for index, server in enumerate(table.servers):
        spot = Spot(index, None, "server_id")
        if table.version == "2.0":
            continue  # its ranks name no server
        if not server.server_id:
            yield _fault("server-id", spot, "a server_id is empty", "give each server its address, or another name")
        elif len(server.server_id) > _LONGEST_SERVER_ID:
            problem = f"server_id {server.server_id[:20]!r}... has {len(server.server_id)} characters"
            yield _fault("server-id", spot, problem, f"HCCL takes {_LONGEST_SERVER_ID} at most")
        elif server.server_id in first:
            problem = f"server_id {server.server_id!r} is there twice (server {first[server.server_id]} and {index})"
            yield _fault("server-twice", spot, problem, "list a server once, with all its devices, under its own id")
        first.setdefault(server.server_id, index)


def _host_ips(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    first: "dict[str, str]" = {}
    for index, server in enumerate(table.servers):
        if server.host_ip is None:
            continue
        spot = Spot(index, None, "host_ip")
        if _address(server.host_ip) is None:
            problem = f"host_ip {server.host_ip!r} of server {server.server_id} is no IP address"
            yield _fault("host-ip", spot, problem, "write the server's own address, or leave host_ip out")
        elif server.host_ip in first:
            problem = f"servers {first[server.host_ip]} and {server.server_id} have the same host_ip {server.host_ip}"
            yield _fault("host-ip", spot, problem, "each server has an address of its own", fatal=False)
        first.setdefault(server.host_ip, server.server_id)


# ── ranks ──────────────────────────────────────────────────────────────────────────────────────────────────


def _rank_ids(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    count = table.rank_count
    first: "dict[int, str]" = {}
    twice = False
    for spot, server, device in _spots(table, "rank_id"):
        if device.rank_id in first:
            twice = True
            problem = f"rank {device.rank_id} is there twice: on {first[device.rank_id]} and on {_name(server, device)}"
            yield _fault("rank-twice", spot, problem, f"number the ranks 0 to {count - 1}, each once")
        elif device.rank_id >= count:
            problem = f"rank {device.rank_id} on {_name(server, device)}, and the table has {count} ranks"
            yield _fault("rank-range", spot, problem, f"number the ranks 0 to {count - 1} without a gap")
        first.setdefault(device.rank_id, _name(server, device))
    missing = [rank for rank in range(count) if rank not in first]
    if missing:
        problem = f"rank {spell_ids(missing[:_MOST_OF_A_KIND])} is missing" + " (another is there twice)" * twice
        yield _fault("rank-missing", Spot(), problem, f"number the ranks 0 to {count - 1} without a gap")


def _ranks_of_a_server_are_neighbours(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    all_ranks = sorted(device.rank_id for _, device in table.devices())
    if all_ranks != list(range(table.rank_count)):
        return  # told of elsewhere, and who is between whom cannot be said
    for index, server in enumerate(table.servers):
        ranks = sorted(device.rank_id for device in server.devices)
        if ranks and ranks[-1] - ranks[0] >= len(ranks):
            problem = f"server {server.server_id} has ranks {spell_ids(ranks)}: those between are on other servers"
            yield _fault("ranks-interleaved", Spot(index), problem, "number the devices of one server after another")


def _servers_are_in_order(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    if table.version not in ("1.0", "1.2"):
        return  # MindSpore starts from these two
    by_rank = sorted(
        (min(device.rank_id for device in server.devices), index)
        for index, server in enumerate(table.servers)
        if server.devices
    )
    for (_first, before), (_second, index) in zip(by_rank, by_rank[1:]):
        earlier, server = table.servers[before], table.servers[index]
        if server.server_id < earlier.server_id:
            problem = (
                f"server {server.server_id} has later ranks than {earlier.server_id}; MindSpore counts servers in the "
                "order of their ids as texts"
            )
            remedy = "`ascendrun rank-table merge FILE` numbers them so"
            yield _fault("servers-order", Spot(index, None, "server_id"), problem, remedy, fatal=False)


# ── devices ────────────────────────────────────────────────────────────────────────────────────────────────


def _device_ids(table: RankTable, product: Optional[str]) -> "Iterator[Fault]":
    most = max(MOST_DEVICES.values()) if product is None else MOST_DEVICES[product]
    for index, server in enumerate(table.servers):
        first: "dict[int, int]" = {}
        for number, device in enumerate(server.devices):
            spot = Spot(index, number, "device_id")
            if device.device_id in first:
                problem = (
                    f"device {device.device_id} of server {server.server_id} is there twice "
                    f"(ranks {first[device.device_id]} and {device.rank_id})"
                )
                yield _fault("device-twice", spot, problem, "each rank needs a device of its own")
            elif device.device_id >= most:
                problem = f"device {device.device_id} of server {server.server_id}: " + (
                    f"a server of {product} has devices 0-{most - 1}" if product else "no Ascend server has so many"
                )
                yield _fault("device-range", spot, problem, "write the physical id, the N of /dev/davinciN")
            first.setdefault(device.device_id, device.rank_id)


def _device_groups(table: RankTable, product: Optional[str]) -> "Iterator[Fault]":
    possible = [product] if product else [name for name in PRODUCTS if name != "A5"]  # A5 has 2.0, which tells of it
    for index, server in enumerate(table.servers):
        ids = {device.device_id for device in server.devices}
        if not ids or len(ids) < len(server.devices) or (product is not None and max(ids) >= MOST_DEVICES[product]):
            continue  # told of elsewhere
        named = f"devices {spell_ids(sorted(ids))} of server {server.server_id}"
        reasons = {name: refusal(name, ids) for name in possible}
        refused = [reason for reason in reasons.values() if reason]
        spot = Spot(index)
        if len(refused) == len(reasons):
            problem = f"{named} cannot work together: {'; '.join(dict.fromkeys(refused))}"
            # on A3 and A5 it is the vendor's scheduler that refuses, and not HCCL
            yield _fault("device-group", spot, problem, "choose other devices", fatal=product not in ("A3", "A5"))
        elif reasons.get("910A") and max(ids) < MOST_DEVICES["910A"]:
            problem = f"{named}: {reasons['910A']}; other products take them"
            remedy = f"say which it is: --product {', '.join(PRODUCTS)}"
            yield _fault("device-group", spot, problem, remedy, fatal=False)
        elif product in (None, "910A") and (doubts := doubt("910A", ids)):
            yield _fault("device-group", spot, f"{named}, on 910A: {doubts}", "choose 0-3 or 4-7", fatal=False)


def _servers_are_alike(table: RankTable, product: Optional[str]) -> "Iterator[Fault]":
    counts = Counter(len(server.devices) for server in table.servers)
    usual = max(counts, key=lambda count: (counts[count], count), default=0)
    for index, server in enumerate(table.servers):
        if len(server.devices) not in (0, usual):
            problem = f"server {server.server_id} has {len(server.devices)} devices, most others have {usual}"
            if product == "910A":
                remedy = "on 910A all servers of a job take part with as many"
                yield _fault("device-count", Spot(index), problem, remedy)
            else:
                remedy = "HCCL refuses this on 910A, and elsewhere it costs speed: give each server as many"
                yield _fault("device-count", Spot(index), problem, remedy, fatal=False)


# ── addresses ──────────────────────────────────────────────────────────────────────────────────────────────


def _device_addresses(table: RankTable, product: Optional[str]) -> "Iterator[Fault]":
    first: "dict[str, str]" = {}
    family: Optional[int] = None
    count: Optional[int] = None
    for spot, server, device in _spots(table, "device_ip"):
        name = _name(server, device)
        if count is not None and device.device_ips and count and len(device.device_ips) != count:
            problem = f"{name} has {len(device.device_ips)} addresses, the first device has {count}"
            yield _fault("address-count", spot, problem, "give every device the same number of addresses")
        count = len(device.device_ips) if count is None else count
        for text in device.device_ips:
            address = _address(text)
            if address is None or address.is_unspecified or address.is_multicast:
                problem = f"device_ip {text!r} of {name} is no address of a device"
                remedy = f"write what `hccn_tool -i {device.device_id} -ip -g` says there"
                yield _fault("address", spot, problem, remedy)
                continue
            if address.compressed in first:
                problem = f"device_ip {text} is there twice: for {first[address.compressed]} and {name}"
                remedy = f"write what `hccn_tool -i {device.device_id} -ip -g` says on each server"
                yield _fault("address-twice", spot, problem, remedy)
            first.setdefault(address.compressed, name)
            if family is not None and address.version != family:
                problem = f"device_ip {text} of {name} is IPv{address.version}, the first is IPv{family}"
                yield _fault("address-family", spot, problem, "HCCL wants one family in the whole table")
            family = family or address.version
            if address.is_loopback and len(table.servers) > 1:
                problem = f"device_ip {text} of {name} is a loopback address, which no other server reaches"
                remedy = f"write what `hccn_tool -i {device.device_id} -ip -g` says there"
                yield _fault("address", spot, problem, remedy, fatal=False)


def _addresses_are_there(table: RankTable, product: Optional[str]) -> "Iterator[Fault]":
    if table.version == "2.0":
        return
    some = any(device.device_ips for _, device in table.devices())
    pods = {server.super_pod_id for server in table.servers}
    in_one_pod = product == "A3" and len(pods) == 1 and None not in pods  # joined by HCCS, not by network cards
    by_host = all(server.host_ip for server in table.servers) and product != "A2"
    needed = product == "910A" or (len(table.servers) > 1 and not in_one_pod and not by_host)
    if not needed and not some:
        return
    for spot, server, device in _spots(table, "device_ip"):
        if not device.device_ips:
            problem = f"{_name(server, device)} has no device_ip" + ", and others have" * (some and not needed)
            remedy = f"write what `hccn_tool -i {device.device_id} -ip -g` says on that server"
            yield _fault("address-missing", Spot(spot.server, spot.device), problem, remedy)


def _subnets(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    """Find the card that is in another subnet than its like.

    On one server all cards share a subnet, or each has its own, or (910A) each shares one with the card 4 further.
    """
    for index, server in enumerate(table.servers):
        nets = {device.device_id: _subnet(device.device_ips[0]) for device in server.devices if device.device_ips}
        if len(nets) < len(server.devices) or None in nets.values():
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
            yield _fault("subnet", Spot(index), problem, remedy, fatal=False)


def _backup_addresses(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    first: "dict[str, str]" = {}
    for spot, server, device in _spots(table, "backup_device_ip"):
        for text in device.backup_device_ips:
            address = _address(text)
            if address is None:
                problem = f"backup_device_ip {text!r} of {_name(server, device)} is no IP address"
                yield _fault("address", spot, problem, "write the address of the card's other die")
            elif text in device.device_ips:
                problem = f"backup_device_ip {text} of {_name(server, device)} is its own address"
                yield _fault("address", spot, problem, "write the address of the card's other die")
            elif text in first:
                problem = f"backup_device_ip {text} is there twice: for {first[text]} and {_name(server, device)}"
                yield _fault("address-twice", spot, problem, "write the address of the card's other die")
            first.setdefault(text, _name(server, device))


def _ports(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    for index, server in enumerate(table.servers):
        for number, device in enumerate(server.devices):
            for name, port in device.ports.items():
                if not 1 <= port <= 65535:
                    problem = f"{name} {port} of {_name(server, device)} is no port"
                    yield _fault("port", Spot(index, number, name), problem, "write 1024 to 65535, or leave it out")


# ── super pods (1.2) ───────────────────────────────────────────────────────────────────────────────────────


def _super_pods(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    if table.version != "1.2" or all(server.super_pod_id is None for server in table.servers):
        return
    seen: "list[str]" = []
    ids: "dict[tuple[str, int], str]" = {}
    for index, server in enumerate(table.servers):
        pod = server.super_pod_id
        if not pod:
            problem = f"server {server.server_id} is in no super pod, and others are"
            yield _fault("super-pod", Spot(index), problem, "list it in super_pod_list")
            continue
        if pod in seen[:-1]:
            problem = f"servers of super pod {pod} are not next to one another: {server.server_id} stands apart"
            yield _fault("super-pod-order", Spot(index), problem, "list the servers of one super pod together")
        if not seen or seen[-1] != pod:
            seen.append(pod)
        for number, device in enumerate(server.devices):
            if device.super_device_id is None:
                problem = f"{_name(server, device)} has no super_device_id"
                remedy = "write the SDID that `npu-smi info -t spod-info -i NPU -c DIE` shows"
                yield _fault("super-device-missing", Spot(index, number), problem, remedy)
                continue
            key = (pod, device.super_device_id)
            if key in ids:
                problem = (
                    f"super_device_id {device.super_device_id} is there twice in super pod {pod}: "
                    f"for {ids[key]} and {_name(server, device)}"
                )
                spot = Spot(index, number, "super_device_id")
                yield _fault("super-device-twice", spot, problem, "each device of a super pod has its own")
            ids.setdefault(key, _name(server, device))


# ── network layers (2.0) ───────────────────────────────────────────────────────────────────────────────────

_MOST_LEVELS, _MOST_ADDRESSES, _MOST_RANKS = 8, 24, 65536


def _levels(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    if table.version != "2.0":
        return
    if table.rank_count > _MOST_RANKS:
        problem = f"the table has {table.rank_count} ranks; 2.0 has room for {_MOST_RANKS}"
        yield _fault("rank-range", Spot(field="rank_count"), problem, "make the job smaller")
    first: "dict[tuple[str, str], str]" = {}
    for spot, _server, device in _spots(table, "level_list"):
        name = f"rank {device.rank_id}"
        layers = [level.get("net_layer") for level in device.level_list]
        if not 1 <= len(layers) <= _MOST_LEVELS:
            yield _fault("level", spot, f"{name} has {len(layers)} network layers", f"give it 1 to {_MOST_LEVELS}")
        elif layers[0] != 0 or layers != sorted(layer for layer in set(layers) if isinstance(layer, int)):
            remedy = f"list layers from 0 to {_MOST_LEVELS - 1}, ascending, each once, and layer 0 first"
            yield _fault("level", spot, f"the net_layers of {name} are {layers}", remedy)
        for level in device.level_list:
            for code, problem, remedy in _faults_of_level(level):
                yield _fault(code, spot, f"{problem}, in layer {level.get('net_layer')} of {name}", remedy)
            for entry in level.get("rank_addr_list") or ():
                key = (str(level.get("net_layer")), str(entry.get("addr")))
                if first.setdefault(key, name) != name:
                    problem = f"addr {key[1]} is there twice in layer {key[0]}: for {first[key]} and {name}"
                    yield _fault("address-twice", spot, problem, "each rank has addresses of its own")


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


_RULES: "tuple[Callable[[RankTable, Optional[str]], Iterator[Fault]], ...]" = (
    _is_completed,
    _has_ranks,
    _server_ids,
    _host_ips,
    _rank_ids,
    _ranks_of_a_server_are_neighbours,
    _servers_are_in_order,
    _device_ids,
    _device_groups,
    _servers_are_alike,
    _device_addresses,
    _addresses_are_there,
    _subnets,
    _backup_addresses,
    _ports,
    _super_pods,
    _levels,
)


def _fault(code: str, spot: Spot, problem: str, remedy: str, *, fatal: bool = True) -> Fault:
    return Fault(code, fatal, spot, problem, remedy)


def _spots(table: RankTable, field: str) -> "Iterator[tuple[Spot, Server, TableDevice]]":
    for index, server in enumerate(table.servers):
        for number, device in enumerate(server.devices):
            yield Spot(index, number, field), server, device


def _name(server: Server, device: TableDevice) -> str:
    return f"device {device.device_id} of server {server.server_id}"


@lru_cache(maxsize=1 << 17)  # each is asked for by several rules
def _address(text: str) -> "Optional[Union[ipaddress.IPv4Address, ipaddress.IPv6Address]]":
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _subnet(text: str) -> "Optional[tuple[int, int]]":
    """Return IP version and prefix of the /24 (IPv6: /64) of an address: a table has no netmask, these are usual."""
    address = _address(text)
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
    address = _address(text)
    return address is not None and kind == f"IPV{address.version}"
