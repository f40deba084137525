"""Device, Host, HostEntry, Inventory: the machines a run may use, what is said of them and what they offer."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Optional, TypeVar

from orchestrator import hostfiles, strictyaml
from orchestrator.errors import SpecError, nearest

T = TypeVar("T")

_MOST_DEVICES = 1024  # no host has more; a typing slip such as 0-99999999 must not fill the memory
_MOST_ENTRIES = 500_000  # keys and items of a hosts file
_NAME = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9._:%-]{0,254}")  # names of hosts, aliases of ~/.ssh/config, addresses
_USER = re.compile(r"[^\s\x00-\x1f\x7f-]\S*")
_YAML = re.compile(r"\s*(---|[{\[]|-\s|-$|['\"]?[\w-]+['\"]?\s*:(\s|$))")  # how a line of a hosts.yaml begins


@dataclass(frozen=True)
class Device:
    """What HCCL counts as one rank: an NPU (on A3 a die), or a share of the CPU on the CPU backend."""

    device_id: int
    device_ip: Optional[str] = None  # IPv4 or IPv6 of its own network port
    super_device_id: Optional[int] = None  # on A3: its number in the super pod

    __pydantic_config__: ClassVar[dict[str, Any]] = strictyaml.STRICT


@dataclass(frozen=True)
class Host:
    """One machine. Its devices are listed in device_id order."""

    name: str
    address: str  # what the other processes of a run dial
    backend: str  # ascend | cpu
    devices: tuple[Device, ...]
    cpus: tuple[int, ...]  # CPUs that we may use
    cpu_flags: frozenset[str] = frozenset()  # instruction sets, as Linux names them

    def __post_init__(self) -> None:
        ids = [device.device_id for device in self.devices]
        if ids != sorted(set(ids)):
            raise SpecError(f"host {self.name}: device_ids {ids} must be unique and ascending")


@dataclass(frozen=True)
class HostEntry:
    """What a hosts file says of one machine, and no more; None: not said. Raises SpecError where it cannot be.

    What is not said here, ~/.ssh/config may say.
    """

    name: str
    address: str  # what SSH dials: an address, a name or an alias of ~/.ssh/config
    user: Optional[str] = None
    port: Optional[int] = None
    identity_file: Optional[str] = None
    jump: Optional[str] = None  # as ProxyJump: [user@]address[:port], several between commas
    devices: Optional[tuple[Device, ...]] = None  # ascending; None: ask the host
    server_id: Optional[str] = None  # its name in the rank table
    super_pod_id: Optional[str] = None
    python: Optional[str] = None
    setup: tuple[str, ...] = ()  # the user's shell lines, run before anything of a job
    work_folder: Optional[str] = None  # absolute, or below ~/
    spare: bool = False  # takes no ranks until a host has failed

    __pydantic_config__: ClassVar[dict[str, Any]] = strictyaml.STRICT

    def __post_init__(self) -> None:
        for what, value in (("name", self.name), ("address", self.address)):
            if not _NAME.fullmatch(value):
                raise SpecError(
                    f"{what} {value!r} cannot be that of a host: letters, digits, '.', '_', '-' and ':' make one"
                )
        if self.user is not None and not _USER.fullmatch(self.user):
            raise SpecError(f"host {self.name}: {self.user!r} cannot be a user")
        if self.port is not None and not 1 <= self.port <= 65_535:
            raise SpecError(f"host {self.name}: {self.port} is no port (1 to 65535)")
        if self.jump is not None:
            for target in self.jumps():
                if not _NAME.fullmatch(target.address) or (target.user and not _USER.fullmatch(target.user)):
                    raise SpecError(f"host {self.name}: jump {self.jump!r}: write user@gateway:port")
        for what in ("identity_file", "work_folder", "python"):
            value = getattr(self, what)
            if value is not None and (not value or "\0" in value or "\n" in value):
                raise SpecError(f"host {self.name}: {what} {value!r} cannot be a path")
        if self.work_folder is not None and not self.work_folder.startswith(("/", "~/")):
            raise SpecError(f"host {self.name}: work_folder {self.work_folder!r}: begin it with / or ~/")
        if self.devices is not None:
            ids = [device.device_id for device in self.devices]
            if ids != sorted(set(ids)):
                raise SpecError(f"host {self.name}: device_ids {spell_ids(ids)} must be unique and ascending")

    def jumps(self) -> "tuple[hostfiles.Target, ...]":
        """Return the hosts to go through, the first to dial first."""
        return tuple(hostfiles.parse_target(part.strip()) for part in self.jump.split(",")) if self.jump else ()

    def is_this_machine(self) -> bool:
        """Tell whether it stands for the machine we run on, which needs no SSH."""
        return self.address == "localhost" and (self.user, self.port, self.jump) == (None, None, None)


_FIELDS = {field.name for field in fields(HostEntry)}
_OF_ONE_HOST = {"name", "address", "server_id", "spare"}  # what `defaults:` cannot say


@dataclass(frozen=True)
class Inventory:
    """The hosts a run may use, in the order in which they take ranks; at least one. Raises SpecError for doubles."""

    entries: tuple[HostEntry, ...]

    def __post_init__(self) -> None:
        if not self.entries:
            raise SpecError("no host is named")
        names: "dict[str, int]" = {}
        dialled: "dict[tuple[object, ...], str]" = {}
        for number, entry in enumerate(self.entries, start=1):
            if entry.name in names:
                raise SpecError(
                    f"host {entry.name} is named twice (hosts {names[entry.name]} and {number}); how many ranks it "
                    "takes its devices say, and machines behind one address need names in a hosts.yaml"
                )
            names[entry.name] = number
            way = (entry.address, entry.port, entry.jump)
            if way in dialled:
                raise SpecError(f"hosts {dialled[way]} and {entry.name} are the same machine: {entry.address}")
            dialled[way] = entry.name

    @classmethod
    def parse(cls, text: str, source: str) -> "Inventory":
        """Read a hosts.yaml, an MPI or DeepSpeed hostfile, a Slurm node list or one host a line.

        Raises SpecError naming *source*, line and key.
        """
        first = next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
        if "\0" in text:
            raise SpecError(f"{source}: this is no text file")
        if _YAML.match(first) and not (first.startswith("[") and "]" in first):
            return _parse_yaml(text, source)
        entries = tuple(
            _located(f"{source}:{line.number}", _entry_of, line.target, line.slots)
            for line in hostfiles.parse_lines(text, source)
        )
        return _located(source, cls, entries)

    @classmethod
    def of_targets(cls, targets: Iterable[str], source: str = "--host") -> "Inventory":
        """Return the inventory of `user@address:port` words; each may be a Slurm list."""
        entries = [
            _located(source, _entry_of, line.target, line.slots)
            for target in targets
            for line in hostfiles.parse_lines(target, source)
        ]
        return _located(source, cls, tuple(entries))


def _entry_of(target: hostfiles.Target, slots: Optional[int]) -> HostEntry:
    devices = None if slots is None else tuple(Device(device_id) for device_id in range(slots))
    return HostEntry(target.address, target.address, target.user, target.port, devices=devices)


def _located(where: str, make: "Callable[..., T]", *arguments: Any) -> T:
    try:
        return make(*arguments)
    except SpecError as exc:
        raise SpecError(f"{where}: {exc}") from exc


def _parse_yaml(text: str, source: str) -> Inventory:
    document, positions = strictyaml.load(text, source, most_entries=_MOST_ENTRIES)
    above: strictyaml.Place = ("hosts",)
    if isinstance(document, list):
        document, above = {"hosts": document}, ()
    if not isinstance(document, dict) or not isinstance(document.get("hosts"), list):
        raise SpecError(f"{source}: a hosts file has a list `hosts:`, of names or of mappings (name:, address:, …)")
    for key in document:
        if key not in ("hosts", "defaults"):
            at = strictyaml.where(source, positions, (key,))
            raise SpecError(f"{at}: unknown field '{key}'{nearest(str(key), ('hosts', 'defaults'))}")
    defaults = _mapping(document.get("defaults") or {}, source, positions, ("defaults",), _FIELDS - _OF_ONE_HOST)
    entries: "list[HostEntry]" = []
    for index, item in enumerate(document["hosts"]):
        place = (*above, index)
        if isinstance(item, str):
            at = strictyaml.where(source, positions, place)
            items = [_said_by(line, at) for line in hostfiles.parse_lines(item, at)]
        else:
            items = [_mapping(item, source, positions, place, _FIELDS)]
        for said in items:
            known = {**defaults, **said}
            if "address" in known:
                known.setdefault("name", known["address"])
            elif "name" in known:
                known["address"] = known["name"]
            entries.append(strictyaml.build(HostEntry, known, source, positions, _known_fields, place))
    return _located(source, Inventory, tuple(entries))


def _known_fields(place: strictyaml.Place) -> "set[str]":
    return {field.name for field in fields(Device)} if "devices" in place else _FIELDS


def _said_by(line: hostfiles.Line, at: str) -> "dict[str, Any]":
    entry = _located(at, _entry_of, line.target, line.slots)
    said = {"address": entry.address, "user": entry.user, "port": entry.port, "devices": entry.devices}
    return {key: value for key, value in said.items() if value is not None}


def _mapping(
    item: Any, source: str, positions: strictyaml.Positions, place: strictyaml.Place, known: Iterable[str]
) -> "dict[str, Any]":
    """Return a mapping of fields with its short forms written out: `setup` as text, `devices` as ids or addresses."""
    if not isinstance(item, dict):
        raise SpecError(
            f"{strictyaml.where(source, positions, place)}: a host is a name or a mapping (name:, address:, …)"
        )
    for key in item:
        if key not in known:
            at = strictyaml.where(source, positions, (*place, str(key)))
            raise SpecError(f"{at}: unknown field '{key}'{nearest(str(key), known)}")
    said = {key: value for key, value in item.items() if value is not None}
    if isinstance(said.get("setup"), str):
        said["setup"] = said["setup"].splitlines()
    if "devices" in said:
        at = strictyaml.where(source, positions, (*place, "devices"))
        said["devices"] = _located(at, _devices, said["devices"])
    return said


def _devices(said: Any) -> "list[Any]":
    """Return devices given as a count, `0-3,6`, a list of ids or of mappings, or a mapping of ids to addresses."""
    if isinstance(said, bool) or not isinstance(said, (int, str, list, dict)):
        raise SpecError("devices: give a count, ids such as 0-3,6, a list, or ids with addresses (0: 192.0.2.1)")
    if isinstance(said, (int, str)):
        every = [Device(device_id) for device_id in range(_MOST_DEVICES)]
        try:
            return list(select_devices(str(said), every))
        except SpecError as exc:
            raise SpecError(str(exc).replace("--devices", "devices:", 1)) from exc
    if isinstance(said, dict):
        said = [{"device_id": device_id, "device_ip": address} for device_id, address in said.items()]
    devices = [{"device_id": item} if isinstance(item, int) else item for item in said]
    for device in devices:
        address = device.get("device_ip") if isinstance(device, dict) else None
        if address is not None:
            try:
                ipaddress.ip_address(address)
            except ValueError:
                raise SpecError(f"devices: {address!r} is no IPv4 or IPv6 address") from None
    return sorted(devices, key=lambda device: device["device_id"] if _has_id(device) else -1)


def _has_id(device: Any) -> bool:
    return isinstance(device, dict) and isinstance(device.get("device_id"), int)


def select_devices(text: str, available: Sequence[Device]) -> tuple[Device, ...]:
    """Return the devices that `--devices` asks for: a count (`8`), a list (`0,2`) or ranges (`4-7,9`).

    A count takes the first ones. Raises SpecError for anything that is not there or not understood.
    """
    by_id = {device.device_id: device for device in available}
    offer = f"this host offers {len(by_id)} ({spell_ids(sorted(by_id))})"
    text = text.strip()
    if re.fullmatch(r"\d+", text, re.ASCII):
        count = int(text[:9])
        if count == 0:
            raise SpecError("--devices 0: a run needs at least one device (device number 0 alone is written 0-0)")
        if count > len(by_id):
            raise SpecError(f"--devices {text}: {offer}")
        return tuple(available[:count])
    wanted: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*", part, re.ASCII)
        if match is None:
            raise SpecError(f"--devices {text!r}: '{part}' is neither a device number nor a range; write 8, 0,2 or 4-7")
        first, last = int(match.group(1)), int(match.group(2) or match.group(1))
        if last < first:
            raise SpecError(f"--devices {text}: the range {first}-{last} runs backwards; write {last}-{first}")
        if last - first >= _MOST_DEVICES:
            raise SpecError(f"--devices {text}: {offer}")
        wanted.extend(range(first, last + 1))
    missing = [device_id for device_id in wanted if device_id not in by_id]
    if missing:
        raise SpecError(f"--devices {text}: no device {spell_ids(missing)}; {offer}")
    if len(set(wanted)) < len(wanted):
        twice = next(device_id for device_id in wanted if wanted.count(device_id) > 1)
        raise SpecError(f"--devices {text}: device {twice} is named twice; every rank needs a device of its own")
    return tuple(by_id[device_id] for device_id in sorted(wanted))


def spell_ids(ids: Sequence[int]) -> str:
    """Return `0-3,6` for 0, 1, 2, 3, 6."""
    ranges: list[list[int]] = []
    for number in ids:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
