"""Which Ascend devices a host has, and which addresses: from the host itself, from its files, or as it is said."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Optional

from orchestrator.errors import HostError, SpecError
from orchestrator.inventory import Device, HostEntry, select_devices, spell_ids
from orchestrator.probes import hccn, npu
from orchestrator.ranktable.model import Server, TableDevice
from orchestrator.transport.base import Transport

_BUSY_TRIES, _BUSY_S = 25, 0.2  # hccn_tool serves one at a time, and takes a fraction of a second
_PROBE_S = 20.0
_MOST_DIGITS = 6
_DEVICE = re.compile(r"davinci([0-9]{1,5})")  # of /dev
_NOT_THERE = (126, 127)  # exit codes of a shell


@dataclass(frozen=True)
class Found:
    """What asking a host for its devices brought."""

    server: Server
    product: Optional[str]
    notes: "tuple[str, ...]" = ()  # what the user should know of how it was found


def this_machine(server_id: Optional[str]) -> HostEntry:
    """Return the machine we run on as an entry of a hosts file. Raises HostError where its address cannot be told."""
    return HostEntry("localhost", "localhost", server_id=server_id or own_address())


def ask(entry: HostEntry, transport: Transport) -> Found:
    """Ask a host which devices it has, and their addresses: hccn_tool, else /etc/hccn.conf, else what *entry* says.

    Raises HostError, beginning with the host's name, where no device can be found.
    """
    notes: "list[str]" = []
    said = {device.device_id: device for device in entry.devices or ()}
    conf = hccn.parse_addresses(_output(transport, ["cat", hccn.CONF]) or "")
    ids = sorted(said) or _device_ids(transport) or sorted(conf)
    if not ids:
        raise HostError(
            f"{entry.name}: no Ascend device found (no /dev/davinci0, no address in {hccn.CONF}); "
            "say in a hosts file which devices it has"
        )
    live = _tool_addresses(transport, ids)
    devices = []
    for device_id in ids:
        in_file = said.get(device_id, Device(device_id))
        address = live.get(device_id) or conf.get(device_id) or in_file.device_ip
        if in_file.device_ip and address != in_file.device_ip:
            notes.append(
                f"{entry.name}: device {device_id} has the address {address}, and not {in_file.device_ip} "
                "as the hosts file says"
            )
        devices.append(TableDevice(0, device_id, (address,) if address else (), in_file.super_device_id))
    product = npu.parse_product(_output(transport, ["npu-smi", "info"]) or "")
    pod = entry.super_pod_id
    if product == "A3":
        devices, pod = _in_super_pod(transport, devices, pod)
    if not live and conf:
        notes.append(f"{entry.name}: hccn_tool gave no address; these are from {hccn.CONF}, as it was configured")
    server_id = entry.server_id or entry.address
    return Found(_server(server_id, devices, pod), product, tuple(notes))


def told(entry: HostEntry) -> Found:
    """Return what *entry* itself says of its devices, without asking the host. Raises SpecError where it says none."""
    if not entry.devices:
        raise SpecError(f"host {entry.name}: the hosts file does not say which devices it has")
    devices = [
        TableDevice(0, one.device_id, (one.device_ip,) if one.device_ip else (), one.super_device_id)
        for one in entry.devices
    ]
    return Found(_server(entry.server_id or entry.address, devices, entry.super_pod_id), None)


def of_record(text: str, name: str, server_id: str) -> Found:
    """Return the server that a file's text tells of: its hccn.conf, or what its `hccn_tool -i N -ip -g` printed.

    Raises SpecError where the file has no address.
    """
    addresses = hccn.parse_addresses(text)
    if not addresses:
        raise SpecError(f"{name}: has no address of a device (lines such as address_0=… or ipaddr:…)")
    return Found(_server(server_id, [TableDevice(0, one, (ip,)) for one, ip in addresses.items()], None), None)


def choose(found: Found, devices: Optional[str], visible: "Sequence[int]" = ()) -> Found:
    """Return *found* with the *devices* of `--devices` only; None: all.

    *visible* are physical ids in the order in which a container counts them from 0; *devices* then means those counts.
    Raises SpecError.
    """
    server = found.server
    by_id = {device.device_id: device for device in server.devices}
    missing = [one for one in visible if one not in by_id]
    if missing or len(set(visible)) < len(visible):
        wrong = f"there is no device {spell_ids(missing)}" if missing else "a device is named twice"
        raise SpecError(f"--visible-devices: {wrong}; server {server.server_id} has {spell_ids(sorted(by_id))}")
    physical = dict(enumerate(visible)) if visible else {device_id: device_id for device_id in sorted(by_id)}
    offered = [Device(number) for number in physical]
    taken = offered if devices is None else select_devices(devices, offered)
    chosen = tuple(by_id[physical[device.device_id]] for device in taken)
    return replace(found, server=replace(server, devices=chosen))


def visible_ids(text: str) -> "list[int]":
    """Read the physical ids of `--visible-devices`, in their order. Raises SpecError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < _MOST_DIGITS for part in parts):
        raise SpecError(f"--visible-devices {text!r}: write physical ids between commas, as in 4,5,6,7")
    return [int(part) for part in parts]


def own_address() -> str:
    """Return the address by which others reach this machine. Raises HostError where it has none but loopback."""
    for address in own_addresses():
        return address
    raise HostError("this machine's address cannot be told: name it with --server-ip")


def own_addresses() -> "list[str]":
    """Return the addresses of this machine that others may reach, the likeliest first."""
    try:
        infos = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
        addresses = [str(info[4][0]) for info in infos]
    except OSError:
        addresses = []  # a name that nobody knows
    mine = dict.fromkeys([*addresses, *_routed_addresses()])
    return [one for one in mine if not one.startswith(("127.", "fe80:", "0.")) and one not in ("::1", "::")]


def _routed_addresses() -> "Iterable[str]":
    """Yield the addresses from which packets would leave; nothing is sent."""
    for family, outside in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((outside, 9))
                yield str(probe.getsockname()[0])
        except OSError:
            continue


def _server(server_id: str, devices: "Sequence[TableDevice]", pod: Optional[str]) -> Server:
    # host_nic_ip is what the tools of MindSpore's models write; HCCL passes over it
    other = {} if pod is not None else {"host_nic_ip": "reserve"}
    return Server(server_id, tuple(devices), super_pod_id=pod, other=other)


def _output(transport: Transport, words: "Sequence[str]") -> Optional[str]:
    """Return what a command printed; None where it failed or is not there."""
    done = transport.run(words, timeout_s=_PROBE_S)
    return done.stdout.decode("utf-8", "replace") if done.code == 0 else None


def _device_ids(transport: Transport) -> "list[int]":
    names = (_output(transport, ["ls", "/dev"]) or "").split()
    return sorted(int(match.group(1)) for match in map(_DEVICE.fullmatch, names) if match)


def _tool_addresses(transport: Transport, ids: "Sequence[int]") -> "dict[int, str]":
    """Return what hccn_tool says, by device; nothing where there is no such tool, or it is not for us to run."""
    for tool in hccn.TOOLS:
        answers = {}
        for device_id in ids:
            answer = _tool_answer(transport, tool, device_id)
            if answer is None:
                break
            answers[device_id] = answer
        else:
            return {device_id: address for device_id, address in answers.items() if address}
    return {}


def _tool_answer(transport: Transport, tool: str, device_id: int) -> Optional[str]:
    """Return the address of a device, "" where it has none; None where there is no such tool."""
    for ipv6 in (False, True):
        words = hccn.ip_words(tool, device_id, ipv6=ipv6)
        for _ in range(_BUSY_TRIES):
            done = transport.run(words, timeout_s=_PROBE_S)
            if not hccn.is_busy((done.stdout + done.stderr).decode("utf-8", "replace")):
                break
            time.sleep(_BUSY_S)  # its owner tells nobody when it is done
        if done.code in _NOT_THERE:
            return None
        if address := hccn.parse_ip(done.stdout.decode("utf-8", "replace")):
            return address
    return ""


def _in_super_pod(
    transport: Transport, devices: "list[TableDevice]", pod: Optional[str]
) -> "tuple[list[TableDevice], Optional[str]]":
    """Return the devices of an A3 host with their numbers in the super pod, and which that is."""
    placed = []
    for device in devices:
        answer = _output(transport, npu.spod_words(device.device_id // 2, device.device_id % 2))
        place = npu.parse_spod(answer or "")
        if place is None:
            placed.append(device)
            continue
        placed.append(replace(device, super_device_id=place.super_device_id))
        pod = place.super_pod_id
    return placed, pod
