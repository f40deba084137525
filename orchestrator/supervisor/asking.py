"""What the devices of a host are like now, by npu-smi and hccn_tool: a sample for `health.Health`.

`npu-smi info` shows most of it at once. What takes a call for each device is asked of those that the caller names, and
hccn_tool, which serves one caller at a time, is never waited for.
"""

from __future__ import annotations

from typing import Any, Collection, Dict, List, Optional, Sequence

from orchestrator.probes import npuqueries
from orchestrator.probes.network import parse_ports
from orchestrator.probes.npuinfo import NpuDevice, parse_info
from orchestrator.supervisor.tools import run_tool

_ANSWER_S = 10.0  # a driver that takes longer is stuck


def look(devices: Collection[int], closely: Collection[int]) -> Dict[str, Any]:
    """Return the figures of *devices*, by their physical ids; *closely*: of which links and memory errors as well.

    `problem` says why there is no table of them, None: there is one; `whole` that a device which is not in it is gone.
    On a host without npu-smi nothing is said.
    """
    answer = run_tool("npu-smi", ["info"], _ANSWER_S)
    if answer["missing"]:
        return {}
    if answer["code"] is None:
        return {"problem": f"npu-smi gives no answer in {_ANSWER_S:.0f} s"}
    info = parse_info(answer["text"])
    if not info.devices:
        return {"problem": info.problem} if info.problem is not None else {}
    found: Dict[str, Dict[str, Any]] = {}
    for device in info.devices:
        if device.device_id in devices:
            found[str(device.device_id)] = _figures(device, device.device_id in closely)
    return {"problem": None, "whole": info.understood and not info.truncated, "devices": found}


def _figures(device: NpuDevice, closely: bool) -> Dict[str, Any]:
    hbm = bool(device.hbm_total_mb)
    figures: Dict[str, Any] = {
        "health": device.health,
        "temp_c": device.temp_c,
        "power_w": device.power_w,
        "aicore_pct": device.aicore_pct,
        "hbm_used_mb": device.hbm_used_mb if hbm else device.mem_used_mb,
        "hbm_total_mb": device.hbm_total_mb if hbm else device.mem_total_mb,
    }
    if (device.health or "OK") != "OK":
        figures["codes"] = _codes(device)
    if closely:
        figures.update(_memory_errors(device))
        figures.update(_link(device.device_id))
    return {name: value for name, value in figures.items() if value is not None}


def _codes(device: NpuDevice) -> List[str]:
    words = npuqueries.words("health", device.npu, device.chip)
    told = npuqueries.parse_health(run_tool(words[0], words[1:], _ANSWER_S)["text"])
    return [code for one in told for code in one.error_codes]


def _memory_errors(device: NpuDevice) -> Dict[str, Any]:
    words = npuqueries.words("ecc", device.npu)
    for one in npuqueries.parse_ecc(run_tool(words[0], words[1:], _ANSWER_S)["text"]):
        if one.chip in (device.chip, None):
            # The totals outlive a reset of the device, where a driver has them.
            corrected = (one.hbm_single if one.hbm_single_total is None else one.hbm_single_total, one.ddr_single)
            uncorrected = (one.hbm_double if one.hbm_double_total is None else one.hbm_double_total, one.ddr_double)
            pages = (one.hbm_single_isolated_pages, one.hbm_double_isolated_pages)
            return {"corrected_ecc": _sum(corrected), "ecc": _sum(uncorrected), "isolated_pages": _sum(pages)}
    return {}


def _sum(counts: Sequence[Optional[int]]) -> Optional[int]:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _link(device_id: int) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for query in ("-link_stat", "-link", "-net_health"):
        if query == "-link" and "link" in found:
            continue
        answer = run_tool("hccn_tool", ["-i", str(device_id), query, "-g"], _ANSWER_S)
        if answer["code"] is None:
            break  # not there, or stuck: so would the next be
        for port in parse_ports(answer["text"]).ports:  # it is of this device, whatever number it says
            flaps = port.link_down_count if port.link_down_count is not None else port.link_up_count
            told = {"link": port.link, "link_flaps": flaps, "net_health": port.net_health}
            found.update({name: value for name, value in told.items() if value is not None})
    return found
