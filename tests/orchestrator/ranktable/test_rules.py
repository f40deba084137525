"""Planted faults: each is found, named, and found at its place. And whatever is not broken is not complained of."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.findings import Finding, Severity
from orchestrator.ranktable.reading import read
from orchestrator.ranktable.rules import check
from tests.orchestrator.ranktable.tables import document_of, tables, text_with

Change = Callable[["dict[str, Any]"], object]


def findings_of(text: str, product: "str | None" = None) -> "tuple[Finding, ...]":
    reading = read(text, "table.json")
    return reading.findings(reading.faults + (check(reading.table, product) if reading.table else ()))


def errors_of(text: str, product: "str | None" = None) -> "list[str]":
    return [one.code for one in findings_of(text, product) if one.severity is Severity.ERROR]


def line_at(text: str, finding: Finding) -> str:
    """Return the text from where the finding points to, to the end of its line."""
    _, line, column = finding.where.rsplit(":", 2)
    return text.split("\n")[int(line) - 1][int(column) - 1 :]


def device(document: "dict[str, Any]", server: int, number: int) -> "dict[str, Any]":
    found: "dict[str, Any]" = document["server_list"][server]["device"][number]
    return found


def put(server: int, number: int, name: str, value: Any) -> Change:
    return lambda document: device(document, server, number).update({name: value})


def drop(server: int, number: int, name: str) -> Change:
    return lambda document: device(document, server, number).pop(name)


def top(name: str, value: Any) -> Change:
    return lambda document: document.update({name: value})


def swap_ranks(document: "dict[str, Any]") -> None:
    device(document, 0, 7)["rank_id"], device(document, 1, 0)["rank_id"] = "8", "7"


def second_server_again(document: "dict[str, Any]") -> None:
    document["server_list"][1]["server_id"] = document["server_list"][0]["server_id"]


# What is done to a table of 2 servers x 8 devices -> the fault that must be named, and where the finding must point to.
PLANTED: "list[tuple[str, Change, str, str]]" = [
    ("rank twice", put(1, 0, "rank_id", "0"), "rank-twice", '"0"'),
    ("rank missing", put(1, 7, "rank_id", "16"), "rank-missing", "{"),
    ("rank beyond the last", put(1, 7, "rank_id", "99"), "rank-range", '"99"'),
    ("rank no number", put(0, 3, "rank_id", "three"), "field-type", '"three"'),
    ("rank negative", put(0, 3, "rank_id", "-1"), "field-type", '"-1"'),
    ("rank null", put(0, 3, "rank_id", None), "field-type", "null"),
    ("rank a list", put(0, 3, "rank_id", ["3"]), "field-type", "["),
    ("rank in other digits", put(0, 3, "rank_id", "\u0663"), "field-type", '"\\u0663"'),
    ("rank without end", put(0, 3, "rank_id", "3" * 40), "field-type", '"333'),
    ("no rank", drop(0, 3, "rank_id"), "field-missing", "{"),
    ("ranks interleaved", swap_ranks, "ranks-interleaved", "{"),
    ("device twice", put(0, 1, "device_id", "0"), "device-twice", '"0"'),
    ("device beyond all", put(0, 7, "device_id", "200"), "device-range", '"200"'),
    ("device of no group", put(0, 7, "device_id", "8"), "device-group", "{"),
    ("device true", put(0, 3, "device_id", True), "field-type", "true"),
    ("device a half", put(0, 3, "device_id", 3.5), "field-type", "3.5"),
    ("no device id", drop(1, 2, "device_id"), "field-missing", "{"),
    ("no device list", lambda document: document["server_list"][1].pop("device"), "field-missing", "{"),
    ("device list an object", lambda d: d["server_list"][1].update(device={}), "field-type", "{"),
    ("device list empty", lambda d: d["server_list"][1].update(device=[]), "empty", "{"),
    ("a device is a text", lambda d: d["server_list"][1]["device"].append("8"), "field-type", '"8"'),
    ("address twice on a server", put(0, 1, "device_ip", "192.168.0.20"), "address-twice", '"192.168.0.20"'),
    ("address twice on two servers", put(1, 0, "device_ip", "192.168.0.20"), "address-twice", '"192.168.0.20"'),
    ("address cut", put(0, 2, "device_ip", "192.168.2"), "address", '"192.168.2"'),
    ("address beyond 255", put(0, 2, "device_ip", "192.168.2.256"), "address", '"192.168.2.256"'),
    ("address masked", put(0, 2, "device_ip", "192.168.*.6"), "address", '"192.168.*.6"'),
    ("address with a mask", put(0, 2, "device_ip", "192.168.2.6/24"), "address", '"192.168.2.6/24"'),
    ("address of none", put(0, 2, "device_ip", "0.0.0.0"), "address", '"0.0.0.0"'),
    ("address of many", put(0, 2, "device_ip", "224.0.0.1"), "address", '"224.0.0.1"'),
    ("address IPv6 cut", put(0, 2, "device_ip", "fe80:::1"), "address", '"fe80:::1"'),
    ("address of another family", put(0, 2, "device_ip", "fd00::2"), "address-family", '"fd00::2"'),
    ("addresses of another number", put(0, 2, "device_ip", "192.168.2.20,192.168.2.99"), "address-count", '"192'),
    ("address of itself", put(0, 2, "device_ip", "::1"), "address", '"::1"'),
    ("address of both families", put(0, 2, "device_ip", "::ffff:1.2.3.4"), "address-family", '"::ffff'),
    ("address a number", put(0, 2, "device_ip", 3232235521), "address", "3232235521"),
    ("address with a blank", put(0, 2, "device_ip", "192.168.2.20 "), "spelling", '"192.168.2.20 "'),
    ("addresses with a blank", put(0, 2, "device_ip", "192.168.2.20, 192.168.3.9"), "spelling", '"192.168.2.20, '),
    ("address empty", put(0, 2, "device_ip", ""), "address-missing", "{"),
    ("no address", drop(1, 5, "device_ip"), "address-missing", "{"),
    ("server twice", second_server_again, "server-twice", '"10.0.0.11"'),
    ("server id empty", lambda d: d["server_list"][0].update(server_id=""), "server-id", '""'),
    ("server id too long", lambda d: d["server_list"][0].update(server_id="s" * 65), "server-id", '"sss'),
    ("server id null", lambda d: d["server_list"][0].update(server_id=None), "field-type", "null"),
    ("no server id", lambda d: d["server_list"][0].pop("server_id"), "field-missing", "{"),
    ("host_ip no address", lambda d: d["server_list"][0].update(host_ip="node-11"), "host-ip", '"node-11"'),
    ("server count lies", top("server_count", "3"), "count", '"3"'),
    ("server count no number", top("server_count", "two"), "field-type", '"two"'),
    ("no servers", top("server_list", []), "empty", "{"),
    ("no server list", lambda document: document.pop("server_list"), "field-missing", "{"),
    ("server list null", top("server_list", None), "field-type", "null"),
    ("status not completed", top("status", "initializing"), "status", '"initializing"'),
    ("no status", lambda document: document.pop("status"), "field-missing", "{"),
    ("version unknown", top("version", "3.0"), "version", '"3.0"'),
    ("version of mixed clusters", top("version", "1.1"), "version", '"1.1"'),
    ("no version", lambda document: document.pop("version"), "version", "{"),
    ("port 0", put(0, 0, "device_port", "0"), "port", '"0"'),
    ("port too large", put(0, 0, "host_port", "65536"), "port", '"65536"'),
]

PLANTED_1_2: "list[tuple[str, Change, str, str]]" = [
    ("super device empty", put(0, 2, "super_device_id", ""), "field-type", '""'),
    ("super device twice", put(0, 2, "super_device_id", "0"), "super-device-twice", '"0"'),
    ("no super device", drop(0, 2, "super_device_id"), "super-device-missing", "{"),
    ("server in no pod", lambda d: d["super_pod_list"][0]["server_list"].pop(), "super-pod", "{"),
    ("server in two pods", lambda d: d["super_pod_list"].append({"super_pod_id": "1", "server_list": [
        {"server_id": "10.0.0.12"}]}), "super-pod", '"10.0.0.12"'),
    ("unknown server in a pod", lambda d: d["super_pod_list"][0]["server_list"].append({"server_id": "x"}),
     "super-pod", '"x"'),
    ("pod without id", lambda d: d["super_pod_list"][0].pop("super_pod_id"), "field-missing", "{"),
    ("pod twice", lambda d: d["super_pod_list"].append({"super_pod_id": "0", "server_list": []}), "super-pod", '"0"'),
    ("backup its own address", put(0, 0, "backup_device_ip", "192.168.0.20"), "address", '"192.168.0.20"'),
    ("backup no address", put(0, 0, "backup_device_ip", "other die"), "address", '"other die"'),
]  # fmt: skip


def level(rank: int, layer: int, name: str, value: Any) -> Change:
    return lambda document: document["rank_list"][rank]["level_list"][layer].update({name: value})


def address(rank: int, layer: int, name: str, value: Any) -> Change:
    return lambda d: d["rank_list"][rank]["level_list"][layer]["rank_addr_list"][0].update({name: value})


PLANTED_2_0: "list[tuple[str, Change, str, str]]" = [
    ("rank count lies", top("rank_count", 15), "count", "15"),
    ("rank twice", lambda d: d["rank_list"][4].update(rank_id=3), "rank-twice", "3"),
    ("no rank count", lambda d: d.pop("rank_count"), "field-missing", "{"),
    ("no layers", lambda d: d["rank_list"][4].update(level_list=[]), "level", "["),
    ("no layer list", lambda d: d["rank_list"][4].pop("level_list"), "field-missing", "{"),
    ("layer 0 not first", lambda d: d["rank_list"][4]["level_list"].reverse(), "level", "["),
    ("layer beyond the last", level(4, 1, "net_layer", 8), "level", "["),
    ("layer a list", level(4, 1, "net_layer", [1]), "level", "["),
    ("layer by name", level(4, 1, "net_layer", "one"), "level", "["),
    ("layer 0 through switches", level(4, 0, "net_type", "CLOS"), "level", "["),
    ("no instance", level(4, 1, "net_instance_id", ""), "level", "["),
    ("no addresses", level(4, 1, "rank_addr_list", []), "level", "["),
    ("EID too short", address(4, 0, "addr", "00ff"), "address", "["),
    ("address of another type", address(4, 1, "addr_type", "IPV6"), "address", "["),
    ("no ports", address(4, 1, "ports", []), "level", "["),
    ("address twice", address(4, 1, "addr", "172.17.0.10"), "address-twice", "["),
    ("device twice", lambda d: d["rank_list"][4].update(device_id=3), "device-twice", "3"),
]

PLANTED_LEGACY: "list[tuple[str, Change, str, str]]" = [
    ("device count lies", lambda d: d["group_list"][0].update(device_count="8"), "count", '"8"'),
    ("instance count lies", lambda d: d["group_list"][0].update(instance_count="3"), "count", '"3"'),
    ("two groups", lambda d: d["group_list"].append({}), "group", "["),
    ("no instances", lambda d: d["group_list"][0].pop("instance_list"), "field-missing", "{"),
    ("device twice", lambda d: d["group_list"][0]["instance_list"][0]["devices"][1].update(device_id="0"),
     "device-twice", '"0"'),
]  # fmt: skip

PLANTED_LAB: "list[tuple[str, Change, str, str]]" = [
    ("server count lies", lambda d: d["group_list"][0].update(server_num="1"), "count", '"1"'),
    ("rank twice", lambda d: d["group_list"][0]["instance_list"][9].update(rank_id="2"), "rank-twice", "{"),
    ("cards of the host", lambda d: d.update(para_plane_nic_location="host"), "group", '"host"'),
]

ALL = [
    (version, *planted)
    for version, group in (
        ("1.0", PLANTED),
        ("1.2", PLANTED_1_2),
        ("2.0", PLANTED_2_0),
        ("legacy", PLANTED_LEGACY),
        ("legacy-lab", PLANTED_LAB),
    )
    for planted in group
]


@pytest.mark.parametrize("version", ["1.0", "1.2", "2.0", "legacy", "legacy-lab"])
def test_a_plain_table_is_fine(version: str) -> None:
    assert findings_of(text_with(lambda document: None, version)) == ()


@pytest.mark.parametrize(
    ("version", "change", "code", "place"),
    [(version, change, code, place) for version, _, change, code, place in ALL],
    ids=[f"{version}: {name}" for version, name, *_ in ALL],
)
def test_a_planted_fault_is_refused_named_and_found_at_its_place(
    version: str, change: Change, code: str, place: str
) -> None:
    text = text_with(change, version)
    found = [one for one in findings_of(text) if one.severity is Severity.ERROR]
    assert code in [one.code for one in found]
    fault = next(one for one in found if one.code == code)
    assert line_at(text, fault).startswith(place)
    assert fault.problem and fault.remedy


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        ("", "truncated", ""),
        ("   \n", "truncated", ""),
        (text_with(lambda document: None)[:900], "truncated", ""),
        ('{"version": "1.0"} // mine', "comment", "// mine"),
        ('{"version": "1.0", /* mine\n */ "status": "completed"}', "comment", "/* mine"),
        ('{"version": "1.0",\n # mine\n "status": "completed"}', "comment", "# mine"),
        ('{"version": "1.0",}', "not-json", ""),
        ("{'version': '1.0'}", "not-json", "'version'"),
        ('{"version": 1.0} {"version": "1.0"}', "not-json", '{"version": "1.0"}'),
        ('{"version": NaN}', "not-json", ""),
        ("[" * 100_000, "not-json", ""),
        ('{"version": ' + "9" * 5000 + "}", "not-json", ""),
        ("[1, 2]", "not-a-table", "[1, 2]"),
        ('"1.0"', "not-a-table", '"1.0"'),
        ('{"version": "1.0", "version": "1.2"}', "key-twice", '"1.2"'),
        ('\ufeff{"version": "1.0"}', "byte-order-mark", ""),
        ('{"version": ' + "[" * 500 + "]" * 500 + "}", "not-json", ""),
        ('{"version": 1' + "0" * 400 + "}", "version", "1000"),
        ('{"version": "1.0", "mine": "\\ud83d\\ude00 \\\\ud800 \\uD800"}', "not-json", "\\uD800"),
        ('{"version": "\ud800"}', "not-json", "\ud800"),
        ("hccl_8p.json", "not-json", "hccl_8p.json"),
    ],
)
def test_a_text_that_is_no_rank_table_is_told_why(text: str, code: str, place: str) -> None:
    found = findings_of(text)
    assert found[0].code == code
    assert place in line_at(text, found[0])


@pytest.mark.parametrize("text", ['{"version": ' + '\\"' * 200_000 + "//", '{"version": ' + "/* " * 400_000])
def test_a_text_that_opens_and_never_closes_is_looked_at_once(text: str) -> None:
    began = time.monotonic()
    assert findings_of(text)
    assert time.monotonic() - began < 20  # and an hour, where each opening is followed to the end


def test_a_table_that_is_wrong_throughout_is_told_so_without_reading_it_again_for_each_fault() -> None:
    def wrong(document: "dict[str, Any]") -> None:
        document["server_list"] = [
            {"server_id": f"s{n}", "device": [{"device_id": "99", "device_ip": "x", "rank_id": "0"}] * 8}
            for n in range(1000)
        ]

    text = text_with(wrong)
    reading = read(text, "table.json")
    assert reading.table is not None
    faults = check(reading.table)
    began = time.monotonic()
    few = reading.findings(faults[:1])
    one_s, began = time.monotonic() - began, time.monotonic()
    many = reading.findings(faults)
    assert len(many) > 50 and few[0] == many[0]
    assert time.monotonic() - began < 20 * one_s


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda d: d["server_list"].reverse(), None),  # the order of the list says nothing, that of the ranks does
        (lambda d: d.update(server_count=2), "spelling"),
        (lambda d: [one.update(rank_id=int(one["rank_id"])) for s in d["server_list"] for one in s["device"]],
         "spelling"),
        (lambda d: d.pop("server_count"), "count"),
        (put(0, 3, "device_ip", "192.168.99.20"), None),  # each card has a subnet of its own anyhow
        (lambda d: d["server_list"][0].update(server_id="9.0.0.1"), "servers-order"),
        (lambda d: [device(d, 0, n).update(device_ip=f"10.1.1.{n + 1}") for n in range(8)]
         + [device(d, 0, 3).update(device_ip="10.1.2.4")], "subnet"),
        (lambda d: d["server_list"][1]["device"].pop(), "device-count"),
        (put(0, 3, "device_ip", "127.0.0.1"), "address"),
        (lambda d: [one.update(host_ip="10.0.0.1") for one in d["server_list"]], "host-ip"),
    ],
)  # fmt: skip
def test_what_hccl_takes_is_at_most_warned_of(change: Change, code: "str | None") -> None:
    found = findings_of(text_with(change))
    assert [one.severity for one in found if one.severity is Severity.ERROR] == []
    assert code in [one.code for one in found] if code else found == ()


@pytest.mark.parametrize(
    ("ids", "refused_on", "warned_of"),
    [
        ([0, 1, 2, 6], {"910A", "A3", "A2-Box16"} - {"A2-Box16"}, True),
        ([3, 4], {"910A"}, True),
        ([0, 1, 2], {"910A"}, True),
        ([0, 2, 4, 6], set(), True),
        ([4, 5, 6, 7], set(), False),
        ([0, 8], {"910A", "A2"}, False),
        (list(range(16)), {"910A", "A2"}, False),
    ],
)
def test_groups_of_devices_are_judged_by_the_product(ids: "list[int]", refused_on: "set[str]", warned_of: bool) -> None:
    def only(document: "dict[str, Any]") -> None:
        del document["server_list"][1]
        document["server_count"] = "1"
        document["server_list"][0]["device"] = [
            {"device_id": str(one), "device_ip": f"10.1.1.{one + 1}", "rank_id": str(rank)}
            for rank, one in enumerate(ids)
        ]

    text = text_with(only)
    assert {product for product in ("910A", "A2") if errors_of(text, product)} == refused_on & {"910A", "A2"}
    assert bool(findings_of(text)) == warned_of or "device-group" in errors_of(text)


def test_the_devices_that_hccl_takes_on_910a_besides_a_group_are_warned_of() -> None:
    text = text_with(lambda d: (d["server_list"].pop(), d.update(server_count="1"), d["server_list"][0].update(
        device=[d["server_list"][0]["device"][n] for n in (0, 2, 4, 6)]), [
        one.update(rank_id=str(rank)) for rank, one in enumerate(d["server_list"][0]["device"])]))  # fmt: skip
    assert errors_of(text, "910A") == []
    assert [one.code for one in findings_of(text, "910A")] == ["device-group"]


def test_uneven_servers_are_refused_on_910a() -> None:
    text = text_with(lambda d: [d["server_list"][1]["device"].pop() for _ in range(4)])
    assert errors_of(text) == []
    assert errors_of(text, "910A") == ["device-count"]


def test_one_server_needs_no_addresses_but_on_910a() -> None:
    def bare(document: "dict[str, Any]") -> None:
        document["server_list"].pop()
        document["server_count"] = "1"
        for one in document["server_list"][0]["device"]:
            del one["device_ip"]

    assert findings_of(text_with(bare)) == ()
    assert set(errors_of(text_with(bare), "910A")) == {"address-missing"}

    def half_bare(document: "dict[str, Any]") -> None:
        document["server_list"].pop()
        document["server_count"] = "1"
        del device(document, 0, 3)["device_ip"]

    assert [(one.code, one.severity) for one in findings_of(text_with(half_bare))] == [
        ("address-missing", Severity.WARNING)
    ]
    assert errors_of(text_with(half_bare), "910A") == ["address-missing"]


def test_310p_servers_have_up_to_32_devices_and_no_groups() -> None:
    def many(document: "dict[str, Any]") -> None:
        device(document, 0, 7)["device_id"] = "31"

    assert errors_of(text_with(many)) == ["device-group"]
    assert "--product" in findings_of(text_with(many))[0].remedy
    assert errors_of(text_with(many), "310P") == []
    assert errors_of(text_with(put(0, 7, "device_id", "32")), "310P") == ["device-range"]


# ── any valid table, any single change that breaks a rule ──────────────────────────────────────────────────


def _any_device(document: "dict[str, Any]", chance: random.Random) -> "dict[str, Any]":
    found: "dict[str, Any]" = chance.choice(chance.choice(document["server_list"])["device"])
    return found


BREAKING: "dict[str, Callable[[dict[str, Any], random.Random], object]]" = {
    "rank beyond": lambda d, c: _any_device(d, c).update(rank_id=str(c.randrange(1000, 9999))),
    "rank gone": lambda d, c: _any_device(d, c).pop("rank_id"),
    "address wrong": lambda d, c: _any_device(d, c).update(device_ip=c.choice(["10.1.1", "::g", "x", "1.2.3.4.5"])),
    "address of the other family": lambda d, c: _any_device(d, c).update(
        device_ip="fd77::1" if "." in d["server_list"][0]["device"][0]["device_ip"] else "10.77.0.1"
    ),
    "count": lambda d, c: d.update(server_count=str(c.choice([0, len(d["server_list"]) + 1, 99]))),
    "device beyond": lambda d, c: _any_device(d, c).update(device_id=str(c.randrange(65, 999))),
    "server without devices": lambda d, c: c.choice(d["server_list"]).update(device=[]),
    "server without id": lambda d, c: c.choice(d["server_list"]).update(server_id=""),
    "status": lambda d, c: d.update(status=c.choice(["initializing", "", "COMPLETED", "done"])),
    "version": lambda d, c: d.update(version=c.choice(["1", "1.3", "v1.0", ""])),
    "a device again": lambda d, c: (lambda s: s["device"].append(dict(s["device"][0])))(c.choice(d["server_list"])),
    "a server again": lambda d, c: d["server_list"].append(c.choice(d["server_list"])),
}


@given(tables("1.0"), st.sampled_from(sorted(BREAKING)), st.randoms(use_true_random=False))
def test_any_single_change_that_breaks_a_rule_is_caught(table: Any, name: str, chance: random.Random) -> None:
    document = document_of(table)
    assert errors_of(json.dumps(document)) == []
    lone = table.rank_count == 1
    BREAKING[name](document, chance)
    if lone and name == "address of the other family":
        return  # nothing is left that it could differ from
    assert errors_of(json.dumps(document, ensure_ascii=False)) != []
