"""Rank tables for the tests: strategies of valid ones, and one of each version to break on purpose."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from orchestrator.ranktable.building import build
from orchestrator.ranktable.model import RankTable, Server, TableDevice
from orchestrator.render import render

# Groups of devices that every product allows.
GROUPS = ((0,), (5,), (0, 1), (6, 7), (0, 1, 2, 3), (4, 5, 6, 7), tuple(range(8)))

_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
_others = st.dictionaries(st.text("abcxyz_", min_size=1, max_size=6).map("x_".__add__), _values, max_size=2)
_ids = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20)


@st.composite
def tables(draw: st.DrawFn, version: str = "1.0", names: "st.SearchStrategy[str]" = _ids) -> RankTable:
    """Draw a valid table of 1.0, 1.2 or a legacy form, with fields of others in it."""
    group = draw(st.sampled_from(GROUPS))
    server_ids = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    family = draw(st.sampled_from([4, 6]))
    first = draw(st.integers(0, 60_000))
    make = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
    base = int(make("10.64.0.1" if family == 4 else "fd00::1"))
    pods = draw(st.integers(1, len(server_ids)))
    servers = []
    for index, server_id in enumerate(server_ids):
        devices = tuple(
            TableDevice(
                0,
                device_id,
                (str(make(base + first + index * 8 + number)),),
                super_device_id=index * 16 + device_id if version == "1.2" else None,
                ports={"device_port": 16666 + number} if version in ("1.0", "1.2") and draw(st.booleans()) else {},
                other=draw(_others),
            )
            for number, device_id in enumerate(group)
        )
        host_ip = f"172.16.0.{index + 1}" if version in ("1.0", "1.2") and draw(st.booleans()) else None
        pod = str(min(index, pods - 1)) if version == "1.2" else None
        servers.append(Server(server_id, devices, host_ip, pod, draw(_others)))
    return build(servers, version)


def a_table(version: str = "1.0", servers: int = 2) -> RankTable:
    """Return a plain table of *servers* x 8 devices."""
    made = [
        Server(
            f"10.0.0.{11 + index}",
            tuple(
                TableDevice(
                    0,
                    device,
                    (f"192.168.{device}.{20 + index}",),
                    super_device_id=(index << 22) + device if version == "1.2" else None,
                    level_list=_levels(index, device) if version == "2.0" else (),
                )
                for device in range(8)
            ),
            super_pod_id="0" if version == "1.2" else None,
        )
        for index in range(servers)
    ]
    return build(made, version)


def _levels(server: int, device: int) -> "tuple[dict[str, Any], ...]":
    return (
        {
            "net_layer": 0,
            "net_instance_id": f"rack0-server{server}",
            "net_type": "TOPO_FILE_DESC",
            "net_attr": "",
            "rank_addr_list": [{"addr_type": "EID", "addr": f"{server:016x}{device:016x}", "ports": ["0/4"]}],
        },
        {
            "net_layer": 1,
            "net_instance_id": "rack0",
            "net_type": "CLOS",
            "net_attr": "",
            "rank_addr_list": [
                {"addr_type": "IPV4", "addr": f"172.17.{server}.{device + 10}", "ports": ["d2h"], "plane_id": "plane0"}
            ],
        },
    )


def document_of(table: RankTable) -> "dict[str, Any]":
    document: "dict[str, Any]" = json.loads(render(f"rank_table/{table.version}.json.j2", table=table))
    return document


def text_with(change: "Callable[[dict[str, Any]], object]", version: str = "1.0") -> str:
    """Return the text of a plain table after *change*, one value a line."""
    document = document_of(a_table(version))
    change(document)
    return json.dumps(document, indent=1)
