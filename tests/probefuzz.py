"""Throws damaged answers of npu-smi and hccn_tool at their parsers: no exception, no endless search."""

from __future__ import annotations

import random
import signal
import time
import traceback
from collections.abc import Callable

from orchestrator.probes import hccn, npu, npuqueries, versions
from orchestrator.probes.network import parse_ports
from orchestrator.probes.npuinfo import parse_info
from tests.fuzz import LONGEST_S, too_long
from tests.orchestrator.probes.answers import processes, table

NASTY = (
    "\0", "\r", "\r\n", "\n", "\ufeff", "\x1b[31m", "(" * 300, "|" * 500, " " * 3000, "9" * 400, "0 /" * 200, "\u0663",
    "\u00b2", "：", "...", "NA", "-", "1e999", "0x", "\ud800", "[devid 99999999999999]", "dev_id:7", "\u2028",
    ":" * 300,
)  # fmt: skip
SEEDS = (
    table([("0 910B1 | OK | 88.4 46 0 / 0", "0 | 0000:C1:00.0 | 0 0 / 0 4175 / 65536")]),
    table([("0 Ascend910 | OK | - 46 0 / 0", "1 1 | 0000:C1:00.0 | 0 0 / 0 4175 / 65536")], "A3", "26"),
    table([("1536 310P3 | Alarm | NA 50 15 / 15", "1 3 | NA | 0 1325 / 43693")], "310P", "310P"),
    processes("0 0 | 6513 | python3.9 | 617", "No running processes found in NPU 1"),
    "\tNPU ID : 0\n\tChip Count : 1\n\n\tHBM Double Bit Error Count : 3\n\tChip ID : 0\n",
    "npu-smi info -i 0 -c 0 -t health\n\tHealth Status : Alarm\n\tError Code : A4025021 8C03A000\n"
    "\tError Information : lost\n\n\t    : more\n",
    "\tNPU ID  Chip ID  Chip Logic ID  Chip Name\n\t0 0 0 Ascend 910A\n",
    "     NPU0  NPU1  CPU Affinity\nNPU0  X  HCCS  0-23\nNPU1  HCCS  X  24-47\n",
    "hccn_tool -i 0 -ip -g\nipaddr:10.0.0.1\nnetmask:255.255.255.0\n",
    "[devid 0]link up count : 2\n[devid 0]link change records :\n[devid 0]  Tue Aug  1 14:43:40 2022    LINK UP\n",
    "dev_id:0, tls switch[0](0:disable, 1:enable)\nnet health status: Success\nlink status: UP\n",
    "optical info:\npresent : present\nTx Power0 : 4.4 mW\nTxPower High Thres : 3.5 mW\nRx Los Flag : 0xff\n",
    "packet statistics:\nroce_rx_err_pkt_num:11\n",
    "device 3 PING 10.0.0.2\nrecv time out seq=0\n3 packets transmitted, 0 received, 100.00% packet loss\n",
    "address_0=10.0.0.1\nnetmask_0=255.0.0.0\ntls_enable_0=1\nIPv6address_0=fd00::1\n",
    "Version=25.2.0\nDriver_Install_Status=complete\nNUMA node0 CPU(s):  0-23\n",
)


def read_all(text: str) -> None:
    """Let every parser read *text*; each must return, and what it keeps must be the text itself."""
    info, ports = parse_info(text), parse_ports(text)
    assert info.raw == text and ports.raw == text
    for port in ports.ports:
        assert port.link is None or port.link
        if port.optical is not None:
            port.optical.faults()
    assert all(device.npu >= 0 for device in info.devices)
    for parse in (npuqueries.parse_records, npuqueries.parse_health, npuqueries.parse_ecc, npuqueries.parse_sensors,
                  npuqueries.parse_mapping, npuqueries.parse_processes, npuqueries.parse_topology,
                  versions.parse_settings, versions.parse_numa, versions.driver_is_complete, hccn.parse_addresses,
                  hccn.parse_ip, npu.parse_product, npu.parse_spod):  # fmt: skip
        parse(text)  # type: ignore[operator]


def mutated(text: str, rng: random.Random) -> str:
    """Return *text* after a few random damages."""
    for _ in range(rng.randint(1, 5)):
        start = rng.randint(0, len(text))
        end = min(len(text), start + rng.choice((1, 3, 20, 120)))
        put = rng.choice(("", rng.choice(NASTY), text[start:end] * rng.choice((2, 9)), rng.choice(SEEDS)[:60]))
        text = text[:start] + put + text[rng.choice((start, end)) :]
    return text[: 1 << 15]


def run(count: int, seed: int, tell: "Callable[[str], None]") -> int:
    """Try *count* inputs; return how many failed."""
    rng, failed, began = random.Random(seed), 0, time.monotonic()
    signal.signal(signal.SIGVTALRM, too_long)
    for number in range(1, count + 1):
        text = mutated("".join(rng.choices(SEEDS, k=rng.randint(1, 3))), rng)
        signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST_S)
        try:
            read_all(text)
        except Exception:
            failed += 1
            tell(f"input {number} (seed {seed}): {text!r:.2000}\n{traceback.format_exc()}")
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        if number % 50_000 == 0:
            tell(f"{number:,} inputs, {failed} failed, {number / (time.monotonic() - began):,.0f}/s")
    return failed
