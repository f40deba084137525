"""What hosts say of their devices, and whether a table says the same: with tools that answer as the real ones do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from orchestrator import addresses
from orchestrator.addresses import Found
from orchestrator.inventory import Device, HostEntry
from orchestrator.probes import hccn, npu
from orchestrator.ranktable.building import build
from orchestrator.ranktable.model import Server, TableDevice
from orchestrator.ranktables import differences
from orchestrator.transport.local import Local


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first in PATH."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def _tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


ENTRY = HostEntry("a", "10.0.0.1", devices=(Device(2), Device(3)))
BOTH_FAMILIES = 'case "$*" in *inet6*) echo "ipv6_address:fd00::$2";; *2*) echo "ipaddr:10.1.1.$2";; *) exit 13;; esac'


def test_a_card_without_an_ipv4_address_is_asked_for_its_ipv6_one(tools: Path) -> None:
    _tool(tools, "hccn_tool", BOTH_FAMILIES)
    found = addresses.ask(ENTRY, Local())
    assert [device.device_ips for device in found.server.devices] == [("10.1.1.2",), ("fd00::3",)]


def test_a_busy_hccn_tool_is_waited_for(tools: Path) -> None:
    busy = 'if [ -e "$0.was" ]; then echo "ipaddr:10.1.1.$2"; else touch "$0.was"; echo "hccn_tool is busy"; exit 1; fi'
    _tool(tools, "hccn_tool", busy)
    found = addresses.ask(ENTRY, Local())
    assert [device.device_ips for device in found.server.devices] == [("10.1.1.2",), ("10.1.1.3",)]


def test_what_is_no_device_among_the_files_of_dev_is_passed_over(tools: Path) -> None:
    _tool(tools, "ls", f"echo davinci_manager davinci1 davinci0 davinci\u00b2 davinci{'9' * 200}")
    found = addresses.ask(HostEntry("a", "10.0.0.1"), Local())
    assert [device.device_id for device in found.server.devices] == [0, 1]


def _live(*devices: TableDevice) -> "dict[str, Found]":
    return {"a": Found(Server("a", devices), None)}


@pytest.mark.parametrize(
    ("said", "live", "code"),
    [
        ("FD00:0::00A", "fd00::a", None),
        ("fd00::b", "fd00::a", "address-differs"),
        ("10.1.1.1,10.1.2.1", "10.1.2.1", None),
        ("10.1.1.1,10.1.2.1", "10.1.3.1", "address-differs"),
    ],
)
def test_a_table_is_compared_with_its_hosts_by_what_addresses_mean(said: str, live: str, code: "str | None") -> None:
    table = build([Server("a", (TableDevice(0, 0, tuple(said.split(","))),))])
    found = differences(table, _live(TableDevice(0, 0, (live,))))
    assert [one.code for one in found] == ([code] if code else [])


def test_a_table_without_addresses_says_nothing_against_its_hosts() -> None:
    table = build([Server("a", (TableDevice(0, 0, super_device_id=5),))])
    assert differences(table, _live(TableDevice(0, 0, ("10.1.1.1",), super_device_id=5))) == ()
    assert [one.code for one in differences(table, _live(TableDevice(0, 0, super_device_id=6)))] == [
        "super-device-differs"
    ]
    assert [one.code for one in differences(table, _live())] == ["device-gone"]
    assert [one.code for one in differences(table, {})] == ["host-silent"]


def test_answers_in_a_transcript_belong_to_the_command_before_them() -> None:
    text = """
[root@node1 ~]# hccn_tool -i 4 -ip -g
ipaddr:10.1.1.4
netmask:255.255.255.0
[root@node1 ~]# /usr/local/Ascend/driver/tools/hccn_tool -i 5 -ip -inet6 -g
ipv6_address:fd00::5
prefix_length:64
"""
    assert hccn.parse_addresses(text) == {4: "10.1.1.4", 5: "fd00::5"}
    assert hccn.parse_addresses("ipaddr:10.1.1.1\nipaddr:10.1.1.2\n") == {0: "10.1.1.1", 1: "10.1.1.2"}
    assert hccn.parse_addresses("address_1=10.1.1.1\naddress_1=10.1.1.9\nIPv6address_1=fd00::1\n") == {1: "10.1.1.9"}


@pytest.mark.parametrize(
    ("card", "product"),
    [("910B3", "A2"), ("910ProB", "910A"), ("Ascend910", "A3"), ("Ascend 910B2", "A2"), ("310P3", "310P"), ("x", None)],
)
def test_the_product_is_told_by_the_name_of_its_cards(card: str, product: "str | None") -> None:
    assert npu.parse_product(f"| 0     {card}       | OK     | 93.4  |\n") == product


def test_the_place_in_a_super_pod_is_told_on_a3_only() -> None:
    answer = "\tSDID                           : 113246208\n\tSuper Pod ID                   : 2\n"
    assert npu.parse_spod(answer) == npu.SuperPodPlace(113246208, "2")
    assert npu.parse_spod("This device does not support querying spod-info.") is None
    assert npu.parse_spod(answer.replace("113246208", "9" * 5000)) is None


@pytest.mark.parametrize("text", ["A" + " " * 50_000, "| 0" + " " * 50_000, "hccn_tool -i 1 " * 20_000])
def test_no_answer_of_a_host_takes_long_to_read(text: str) -> None:
    began = time.monotonic()
    npu.parse_spod(text), npu.parse_product(text), hccn.parse_addresses(text)
    assert time.monotonic() - began < 5
