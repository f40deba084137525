"""How long a rank table of many servers takes to build, write, read back and check, and that it is linear.

The peer is Python's own json, which writes and reads the same text without knowing what it means.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

from orchestrator.ranktable.building import build
from orchestrator.ranktable.model import Server, TableDevice
from orchestrator.ranktable.reading import read
from orchestrator.ranktable.rules import check
from orchestrator.render import render

DEVICES = 8


def servers(count: int) -> "list[Server]":
    return [
        Server(
            f"10.{index // 65536}.{index // 256 % 256}.{index % 256}",
            tuple(
                TableDevice(0, device, (f"11.{index // 8192}.{index // 32 % 256}.{index % 32 * 8 + device}",))
                for device in range(DEVICES)
            ),
        )
        for index in range(count)
    ]


def timed(do: "Callable[[], Any]") -> "tuple[float, Any]":
    gc.collect()
    began = time.perf_counter()
    made = do()
    return time.perf_counter() - began, made


def measure(count: int) -> "dict[str, float]":
    """Return seconds of each part for a table of *count* servers."""
    hosts = servers(count)
    build_s, table = timed(lambda: build(hosts))
    render_s, text = timed(lambda: render("rank_table/1.0.json.j2", table=table))
    read_s, reading = timed(lambda: read(text, "table.json"))
    check_s, faults = timed(lambda: check(reading.table))
    assert reading.table == table
    assert not faults, faults[:3]
    json_s, _ = timed(lambda: json.dumps(json.loads(text), indent=1))
    return {"build": build_s, "render": render_s, "read": read_s, "check": check_s, "json": json_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--servers", type=int, nargs="+", default=[1250, 2500, 5000, 10000])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{DEVICES} devices a server, median of {arguments.rounds} rounds")
    print("servers   build  render    read   check     all  x json  us a device")
    for count in arguments.servers:
        rounds = [measure(count) for _ in range(arguments.rounds)]
        parts = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        whole = sum(parts[name] for name in ("build", "render", "read", "check"))
        columns = "  ".join(f"{parts[name]:6.3f}" for name in ("build", "render", "read", "check"))
        print(
            f"{count:7}  {columns}  {whole:6.3f}  {whole / parts['json']:6.1f}  {whole / count / DEVICES * 1e6:11.1f}"
        )
    print(f"most memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
