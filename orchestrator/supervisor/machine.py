"""What this machine has: instruction sets, Ascend devices, free ports."""

from __future__ import annotations

import os
import re
import socket
import sys
from typing import List, Tuple


def cpu_flags() -> List[str]:
    """Return the instruction sets of the CPU as Linux names them (`flags` on x86, `Features` on Arm)."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() in ("flags", "Features"):
                    return value.split()
    except OSError:
        pass  # no /proc: then nothing is known of the CPU, and nothing is tuned to it
    return []


def ascend_device_ids() -> List[int]:
    names = (re.fullmatch(r"davinci(\d+)", name) for name in os.listdir("/dev"))
    return sorted(int(match.group(1)) for match in names if match)


def free_ports(count: int, address: str) -> List[int]:
    """Return *count* different TCP ports that are free now on *address*, "" for all of them."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((address, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def listen(address: "Tuple[str, int]") -> socket.socket:
    """Return a socket that waits for connections to *address*. Raises OSError where that is taken."""
    listener = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def find_packages() -> None:
    """Make installed packages importable where Python was started without (-S), which spares a host 30 ms and more."""
    if "site" not in sys.modules:
        import site

        site.main()
