"""`hccn_tool` and hccn.conf: whose answer it is, and what it says of the link."""

from __future__ import annotations

import pytest

from orchestrator.probes import versions
from orchestrator.probes.network import Port, parse_ports


def one(text: str, device: "int | None" = None) -> Port:
    (port,) = parse_ports(text, device).ports
    return port


def test_an_answer_alone_is_of_the_device_that_was_asked() -> None:
    assert one("ipaddr:10.1.2.3\nnetmask:255.255.0.0\n", 5) == Port(5, address="10.1.2.3", netmask="255.255.0.0")
    assert one("link status: DOWN").device is None


def test_answers_without_commands_are_counted_and_a_refusal_is_one_too() -> None:
    told = parse_ports("ipaddr:10.0.0.1\nnetmask:255.0.0.0\nGet ipconf failed, because no ip was preset there!\n"
                       "ipaddr:10.0.0.3\nnetmask:255.0.0.0\n")  # fmt: skip
    assert told.addresses() == {0: "10.0.0.1", 2: "10.0.0.3"}
    assert told.ports[1].problem == "no ip was preset"


def test_an_ipv6_address_counts_where_there_is_no_other() -> None:
    assert one("ipv6_address:fd00:1::10\nprefix_length:64").address == "fd00:1::10"
    assert one("IPv6address_3=fd00::3\naddress_3=10.0.0.3").address == "10.0.0.3"


def test_a_link_is_as_it_was_asked_else_as_it_last_changed() -> None:
    changes = "[devid 4]link change records :\n[devid 4]  {}    LINK DOWN\n[devid 4]  {}    LINK UP\n"
    newest_first = changes.format("Wed Dec 31 23:00:00 2025", "Wed Dec 31 01:00:00 2025")
    assert one(newest_first).link == "DOWN"
    assert one(changes.format("Wed Dec 31 01:00:00 2025", "Thu Jan  1 00:00:00 2026")).link == "UP"
    assert one(f"{newest_first}hccn_tool -i 4 -link -g\nlink status: UP\n").link == "UP"


def test_light_beyond_its_limits_is_told() -> None:
    optical = one(
        "optical info:\npresent : present\nRx Power0 : 0.0054 mW\nRx Power1 : 1.2 mW\nRxPower Low Thres : 0.1445 mW\n"
        "RxPower High Thres : 3.5 mW\nTx Los Flag : 0x0\nRx Los Flag : 0xff\n"
    ).optical
    assert optical is not None and optical.present
    assert optical.faults() == ["rx power0 0.0054 mW is below 0.1445 mW", "rx los flag is 0xff"]


@pytest.mark.parametrize(
    ("text", "on"), [("dev_id:2, tls switch[1](0:disable, 1:enable)", True), ("tls_enable_2=0", False)]
)
def test_tls_is_told_by_the_tool_and_by_the_file(text: str, on: bool) -> None:
    assert (one(text).device, one(text).tls) == (2, on)


def test_a_ping_is_told_with_what_was_lost() -> None:
    text = "device 3 PING 10.9.9.9\nrecv time out seq=0\nrecv seq=1,time=0.2ms\n"
    text += "3 packets transmitted, 1 received, 66.67% packet loss\n"
    (ping,) = one(text).pings
    assert (ping.address, ping.sent, ping.received, ping.loss_pct) == ("10.9.9.9", 3, 1, 66.67)


@pytest.mark.parametrize("text", ["", "hello: world", "rank_id: 3\nlog_10: x", "\0\xff"])
def test_what_says_nothing_of_a_port_is_not_understood_and_kept(text: str) -> None:
    told = parse_ports(text)
    assert (told.understood, told.ports, told.raw) == (False, (), text)


def test_versions_are_those_of_the_package_and_not_of_its_parts() -> None:
    assert versions.parse_version("# x\nVersion=25.2.0\r\nascendhal_version=7.35\nversion=1") == "25.2.0"
    assert versions.parse_version("package_name=Ascend-cann-toolkit\nversion=8.1.RC1\n") == "8.1.RC1"
    assert versions.parse_version("nothing") is None


def test_a_driver_is_whole_when_its_file_says_so() -> None:
    assert versions.driver_is_complete("Driver_Install_Status=complete") is True
    assert versions.driver_is_complete("Driver_Install_Type=full") is False
    assert versions.driver_is_complete("UserName=HwHiAiUser") is None


def test_numa_nodes_are_read() -> None:
    assert versions.parse_numa("NUMA node(s):  2\nNUMA node0 CPU(s):  0-23\nNUMA node1 CPU(s):  24-47,9\n") == {
        0: "0-23",
        1: "24-47,9",
    }


def test_counters_that_name_their_device_and_the_route_of_a_port_are_read() -> None:
    text = "[devid 3] qp_alloc: 17\n[devid 3] aeqe: 0\n$ hccn_tool -i 3 -route -g\n"
    text += "Destination Gateway Genmask Flags\ndefault 10.1.0.1 0.0.0.0 UG 0 0 0 eth3\n"
    text += "10.1.0.0 * 255.255.0.0 U 0 0 0 eth3\n"
    (port,) = parse_ports(text).ports
    assert (port.device, port.gateway, port.statistics) == (3, "10.1.0.1", {"qp_alloc": 17, "aeqe": 0})
