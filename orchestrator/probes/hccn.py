"""Addresses of devices: what `hccn_tool` and /etc/hccn.conf say. Source: hccn_tool's own documents and source."""

from __future__ import annotations

import re
from typing import Optional

CONF = "/etc/hccn.conf"
# In PATH, or where the driver puts it.
TOOLS = ("hccn_tool", "/usr/local/Ascend/driver/tools/hccn_tool")

_ADDRESS = re.compile(r"^\s*(ipaddr|ipv6_address)\s*:\s*(\S+)\s*$")
_ID = re.compile(r"[0-9]{1,3}")
_SETTING = re.compile(r"^\s*(address|ipv6address)_([0-9]{1,3})\s*=\s*(\S+)\s*$", re.IGNORECASE)


def ip_words(tool: str, device_id: int, *, ipv6: bool = False) -> "list[str]":
    """Return the command that asks for the address of a device, by its physical id."""
    return [tool, "-i", str(device_id), "-ip", *(["-inet6"] if ipv6 else []), "-g"]


def parse_ip(text: str) -> Optional[str]:
    """Return the address in the answer to `ip_words`; None where there is none. Only the first colon parts."""
    for line in text.splitlines():
        if match := _ADDRESS.match(line):
            return match.group(2)
    return None


def is_busy(text: str) -> bool:
    """Say whether another hccn_tool is at work on that host: it serves one at a time."""
    return "hccn_tool is busy" in text


def parse_addresses(text: str) -> "dict[int, str]":
    """Return the address of each device that *text* tells of: an hccn.conf, or a transcript of `hccn_tool -ip -g`.

    In a transcript an answer belongs to the command before it; answers without commands are counted from 0. What says
    something else is passed over. An IPv4 address counts before an IPv6 one, and of one setting the last.
    """
    found: "dict[str, dict[int, str]]" = {"4": {}, "6": {}}
    asked: Optional[int] = None
    answers = 0
    for line in text.splitlines():
        if match := _SETTING.match(line):
            family = "6" if match.group(1).lower().startswith("ipv6") else "4"
            found[family][int(match.group(2))] = match.group(3)
        elif "hccn_tool" in line:
            asked = _asked(line.split())
        elif match := _ADDRESS.match(line):
            family = "6" if match.group(1).startswith("ipv6") else "4"
            found[family][answers if asked is None else asked] = match.group(2)
            answers, asked = answers + 1, None
    return dict(sorted({**found["6"], **found["4"]}.items()))


def _asked(words: "list[str]") -> Optional[int]:
    """Return the device whose address a command line asks for; None where it asks for something else."""
    after = words[words.index("-i") + 1 :] if "-i" in words and "-ip" in words else []
    return int(after[0]) if after and _ID.fullmatch(after[0]) else None
