"""Versions: the files in which Ascend's driver, firmware and CANN say theirs, and CPUs and their NUMA nodes."""

from __future__ import annotations

import re
from typing import Optional

from orchestrator.probes.text import lines_of

_SETTING = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]{0,60})\s*=\s*(\S.*)")
_NODE = re.compile(r"NUMA node([0-9]{1,4}) CPU\(s\):\s*(\S*)")
DRIVER = "/usr/local/Ascend/driver/version.info"
FIRMWARE = "/usr/local/Ascend/firmware/version.info"
INSTALL = "/etc/ascend_install.info"
# Below $ASCEND_HOME_PATH, /usr/local/Ascend/cann or /usr/local/Ascend/ascend-toolkit/latest.
CANN = "*-linux/ascend_toolkit_install.info"


def parse_settings(text: str) -> "dict[str, str]":
    """Return the `key=value` lines of a file, by key in small letters; of one key the first counts."""
    found: "dict[str, str]" = {}
    for line in lines_of(text):
        if match := _SETTING.fullmatch(line):
            found.setdefault(match.group(1).lower(), match.group(2).strip())
    return found


def parse_version(text: str) -> Optional[str]:
    """Return the version that a version.info or an install.info says; None where it says none."""
    return parse_settings(text).get("version")


def driver_is_complete(text: str) -> Optional[bool]:
    """Say whether /etc/ascend_install.info tells of a whole driver; None where it tells of no driver."""
    told = parse_settings(text)
    if not any(key.startswith("driver_") for key in told):
        return None
    return told.get("driver_install_status", "").lower() == "complete"


def parse_numa(text: str) -> "dict[int, str]":
    """Return the CPUs of each NUMA node that `lscpu` shows: {0: "0-23"}."""
    return {int(match.group(1)): match.group(2) for line in lines_of(text) if (match := _NODE.search(line))}
