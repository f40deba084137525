"""What of a host stays the same from week to week, kept to tell what has changed since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.checks.alike import VALUES
from orchestrator.checks.facts import HostFacts


def lasting(host: HostFacts) -> "dict[str, str]":
    """Return what a baseline keeps of a host: texts by name, as they are shown."""
    told: "dict[str, Any]" = {name: value(host) for name, value in VALUES.items()}
    told["python"] = host.told["python"]
    told["kernel"] = host.told["kernel"]
    told.update({f"{name} limit": value for name, value in host.told["limits"].items()})
    for device in host.info.devices:
        told[f"device {device.device_id}"] = f"{device.name} at {device.bus_id}"
        told[f"device {device.device_id} health"] = device.health
    for number, port in host.ports.items():
        told[f"device {number} address"] = port.address
        told[f"device {number} TLS"] = None if port.tls is None else "on" if port.tls else "off"
    return {name: str(value) for name, value in told.items() if value is not None}


def changes(before: "Mapping[str, str]", now: "Mapping[str, str]") -> "list[str]":
    """Return what differs, a line each: `driver: 25.2.0 before, 25.2.3 now`."""
    return [
        f"{name}: {before.get(name, 'not there')} before, {now.get(name, 'not there')} now"
        for name in dict.fromkeys([*before, *now])
        if before.get(name) != now.get(name)
    ]
