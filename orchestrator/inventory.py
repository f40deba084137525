"""Host and Device: the machines a run may use, and what they offer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import SpecError

_MOST_DEVICES = 1024  # no host has more; a typing slip such as 0-99999999 must not fill the memory


@dataclass(frozen=True)
class Device:
    """What HCCL counts as one rank: an NPU (on A3 a die), or a share of the CPU on the CPU backend."""

    device_id: int


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
