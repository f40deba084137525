"""What HCCL and MindSpore ask of a rank table, one function a rule. Sources: HCCL's parsers of rank tables and its
documents of each version, MindSpore's tutorial of rank-table start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Optional

from orchestrator.inventory import spell_ids
from orchestrator.ranktable import addressing
from orchestrator.ranktable.addressing import address_of
from orchestrator.ranktable.model import COMPLETED, Fault, RankTable, Spot, name_of, spots
from orchestrator.ranktable.products import LIKELY, MOST_DEVICES, PRODUCTS, doubt, refusal
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
        found.extend(islice(rule(table, product), _MOST_OF_A_KIND))
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
        yield Fault("empty", Spot(), "the table has no server", "write it anew with `ascendrun rank-table`")
    for index, server in enumerate(table.servers):
        if not server.devices:
            problem = f"server {server.server_id!r} has no device"
            yield Fault("empty", Spot(index), problem, "take the server out, or add its devices")


def _server_ids(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    first: "dict[str, int]" = {}
    for index, server in enumerate(table.servers):
        spot = Spot(index, None, "server_id")
        if table.version == "2.0":
            continue  # its ranks name no server
        if not server.server_id:
            yield Fault("server-id", spot, "a server_id is empty", "give each server its address, or another name")
        elif len(server.server_id) > _LONGEST_SERVER_ID:
            problem = f"server_id {server.server_id[:20]!r}... has {len(server.server_id)} characters"
            yield Fault("server-id", spot, problem, f"HCCL takes {_LONGEST_SERVER_ID} at most")
        elif server.server_id in first:
            problem = f"server_id {server.server_id!r} is there twice (server {first[server.server_id]} and {index})"
            yield Fault("server-twice", spot, problem, "list a server once, with all its devices, under its own id")
        first.setdefault(server.server_id, index)


def _host_ips(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    first: "dict[str, str]" = {}
    for index, server in enumerate(table.servers):
        if server.host_ip is None:
            continue
        spot = Spot(index, None, "host_ip")
        if address_of(server.host_ip) is None:
            problem = f"host_ip {server.host_ip!r} of server {server.server_id} is no IP address"
            yield Fault("host-ip", spot, problem, "write the server's own address, or leave host_ip out")
        elif server.host_ip in first:
            problem = f"servers {first[server.host_ip]} and {server.server_id} have the same host_ip {server.host_ip}"
            yield Fault("host-ip", spot, problem, "each server has an address of its own", fatal=False)
        first.setdefault(server.host_ip, server.server_id)


# ── ranks ──────────────────────────────────────────────────────────────────────────────────────────────────


def _rank_ids(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    count = table.rank_count
    first: "dict[int, str]" = {}
    twice = False
    for spot, server, device in spots(table, "rank_id"):
        if device.rank_id in first:
            twice = True
            problem = f"rank {device.rank_id} is on {first[device.rank_id]} and on {name_of(server, device)}"
            yield Fault("rank-twice", spot, problem, f"number the ranks 0 to {count - 1}, each once")
        elif device.rank_id >= count:
            problem = f"rank {device.rank_id} on {name_of(server, device)}, and the table has {count} ranks"
            yield Fault("rank-range", spot, problem, f"number the ranks 0 to {count - 1} without a gap")
        first.setdefault(device.rank_id, name_of(server, device))
    missing = [rank for rank in range(count) if rank not in first]
    if missing:
        problem = f"rank {spell_ids(missing[:_MOST_OF_A_KIND])} is missing" + " (another is there twice)" * twice
        yield Fault("rank-missing", Spot(), problem, f"number the ranks 0 to {count - 1} without a gap")


def _ranks_of_a_server_are_neighbours(table: RankTable, _: Optional[str]) -> "Iterator[Fault]":
    all_ranks = sorted(device.rank_id for _, device in table.devices())
    if all_ranks != list(range(table.rank_count)):
        return  # told of elsewhere, and who is between whom cannot be said
    for index, server in enumerate(table.servers):
        ranks = sorted(device.rank_id for device in server.devices)
        if ranks and ranks[-1] - ranks[0] >= len(ranks):
            problem = f"server {server.server_id} has ranks {spell_ids(ranks)}: those between are on other servers"
            yield Fault("ranks-interleaved", Spot(index), problem, "number the devices of one server after another")


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
            yield Fault("servers-order", Spot(index, None, "server_id"), problem, remedy, fatal=False)


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
                yield Fault("device-twice", spot, problem, "each rank needs a device of its own")
            elif device.device_id >= most:
                problem = f"device {device.device_id} of server {server.server_id}: " + (
                    f"a server of {product} has devices 0-{most - 1}" if product else "no Ascend server has so many"
                )
                yield Fault("device-range", spot, problem, "write the physical id, the N of /dev/davinciN")
            first.setdefault(device.device_id, device.rank_id)


def _device_groups(table: RankTable, product: Optional[str]) -> "Iterator[Fault]":
    possible = (product,) if product else LIKELY
    say_which = f"say which product it is: --product {', '.join(PRODUCTS)}"
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
            remedy = "choose other devices" + f", or {say_which}" * (product is None)
            # on A3 and A5 it is the vendor's scheduler that refuses, and not HCCL
            yield Fault("device-group", spot, problem, remedy, fatal=product not in ("A3", "A5"))
        elif reasons.get("910A") and max(ids) < MOST_DEVICES["910A"]:
            problem = f"{named}: {reasons['910A']}; other products take them"
            yield Fault("device-group", spot, problem, say_which, fatal=False)
        elif product in (None, "910A") and (doubts := doubt("910A", ids)):
            yield Fault("device-group", spot, f"{named}, on 910A: {doubts}", "choose 0-3 or 4-7", fatal=False)


def _servers_are_alike(table: RankTable, product: Optional[str]) -> "Iterator[Fault]":
    counts = Counter(len(server.devices) for server in table.servers)
    usual = max(counts, key=lambda count: (counts[count], count), default=0)
    for index, server in enumerate(table.servers):
        if len(server.devices) not in (0, usual):
            problem = f"server {server.server_id} has {len(server.devices)} devices, most others have {usual}"
            if product == "910A":
                remedy = "on 910A all servers of a job take part with as many"
                yield Fault("device-count", Spot(index), problem, remedy)
            else:
                remedy = "HCCL refuses this on 910A, and elsewhere it costs speed: give each server as many"
                yield Fault("device-count", Spot(index), problem, remedy, fatal=False)


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
            yield Fault("super-pod", Spot(index), problem, "list it in super_pod_list")
            continue
        if pod in seen[:-1]:
            problem = f"servers of super pod {pod} are not next to one another: {server.server_id} stands apart"
            yield Fault("super-pod-order", Spot(index), problem, "list the servers of one super pod together")
        if not seen or seen[-1] != pod:
            seen.append(pod)
        for number, device in enumerate(server.devices):
            if device.super_device_id is None:
                problem = f"{name_of(server, device)} has no super_device_id"
                remedy = "write the SDID that `npu-smi info -t spod-info -i NPU -c DIE` shows"
                yield Fault("super-device-missing", Spot(index, number), problem, remedy)
                continue
            key = (pod, device.super_device_id)
            if key in ids:
                problem = (
                    f"super_device_id {device.super_device_id} is there twice in super pod {pod}: "
                    f"for {ids[key]} and {name_of(server, device)}"
                )
                spot = Spot(index, number, "super_device_id")
                yield Fault("super-device-twice", spot, problem, "each device of a super pod has its own")
            ids.setdefault(key, name_of(server, device))


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
    addressing.device_addresses,
    addressing.addresses_are_there,
    addressing.subnets,
    addressing.backup_addresses,
    addressing.ports,
    _super_pods,
    addressing.levels,
)
