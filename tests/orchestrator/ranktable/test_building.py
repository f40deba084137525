"""Tables are made, written, read back, merged and converted without losing or inventing anything."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.ranktable.building import build, convert, merge, numbered
from orchestrator.ranktable.model import RankTable, Server, TableDevice
from orchestrator.ranktable.positions import line_and_column, offset_of
from orchestrator.ranktable.reading import read
from orchestrator.ranktable.rules import check
from orchestrator.render import render
from tests.orchestrator.ranktable.tables import a_table, document_of, tables


def read_back(table: RankTable) -> RankTable:
    reading = read(render(f"rank_table/{table.version}.json.j2", table=table), "table.json")
    assert reading.faults == ()
    assert reading.table is not None
    return reading.table


@given(st.sampled_from(["1.0", "1.2", "legacy", "legacy-lab"]).flatmap(tables))
def test_what_is_built_written_and_read_back_is_the_same_and_fine(table: RankTable) -> None:
    assert read_back(table) == table
    assert [fault for fault in check(table) if fault.fatal] == []


@pytest.mark.parametrize("version", ["1.0", "1.2", "2.0", "legacy", "legacy-lab"])
def test_a_plain_table_of_each_version_is_read_back_the_same(version: str) -> None:
    assert read_back(a_table(version)) == a_table(version)


def _named(prefix: str) -> "st.SearchStrategy[str]":
    return st.text("0123456789.", min_size=1, max_size=6).map(prefix.__add__)


@given(tables(names=_named("a")), tables(names=_named("b")), tables(names=_named("c")))
def test_merging_is_associative_and_keeps_every_device(one: RankTable, two: RankTable, three: RankTable) -> None:
    left = merge([merge([one, two]), three])
    assert left == merge([one, merge([two, three])]) == merge([three, one, two])
    assert left.rank_count == one.rank_count + two.rank_count + three.rank_count
    assert [device.rank_id for _, device in left.devices()] == list(range(left.rank_count))
    ids = [server.server_id for server in left.servers]
    assert ids == sorted(ids)


def _part(devices: "list[int]", **more: Any) -> RankTable:
    return build([Server("s", tuple(TableDevice(0, one, (f"10.0.0.{one + 1}",)) for one in devices), **more)])


def test_a_server_in_parts_becomes_one_in_whatever_order_its_parts_come() -> None:
    whole = merge([_part([4, 5]), _part([0, 1]), _part([6, 7]), _part([2, 3])])
    assert whole == merge([_part([0, 1, 2, 3]), _part([4, 5, 6, 7])]) == _part(list(range(8)))


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ([_part([0, 1]), _part([1, 2])], "device 1 of server s"),
        ([_part([0], host_ip="10.0.0.1"), _part([1], host_ip="10.0.0.2")], "host_ip of server s"),
        ([_part([0], other={"pod": 1}), _part([1], other={"pod": 2})], "`pod`"),
        ([_part([0]), convert(_part([1]), "legacy")], "versions 1.0 and legacy"),
    ],
)
def test_tables_that_contradict_one_another_are_not_merged(parts: "list[RankTable]", named: str) -> None:
    with pytest.raises(SpecError) as caught:
        merge(parts)
    assert named in str(caught.value)


def _servers(*ids: str, pods: "tuple[str, ...]" = ()) -> "list[Server]":
    return [
        Server(one, (TableDevice(0, 0, (f"10.0.{index}.1",), index),), super_pod_id=pods[index] if pods else None)
        for index, one in enumerate(ids)
    ]


def test_servers_count_in_the_order_of_their_ids_as_texts() -> None:
    table = build(_servers("10.0.0.9", "10.0.0.11", "10.0.0.100"))
    assert [server.server_id for server in table.servers] == ["10.0.0.100", "10.0.0.11", "10.0.0.9"]
    assert [server.devices[0].rank_id for server in table.servers] == [0, 1, 2]


def test_servers_of_a_super_pod_stay_together() -> None:
    table = build(_servers("a", "b", "c", "d", pods=("2", "1", "2", "1")))
    assert table.version == "1.2"
    assert [(server.super_pod_id, server.server_id) for server in table.servers] == [
        ("2", "a"), ("2", "c"), ("1", "b"), ("1", "d")]  # fmt: skip


def test_an_order_of_many_servers_costs_no_more_than_its_length() -> None:
    ids = [f"n{index:05}" for index in range(20_000)]
    servers = [Server(one, ()) for one in ids]
    began = time.monotonic()
    assert [server.server_id for server in numbered(servers, ids[::-1])] == ids[::-1]
    assert time.monotonic() - began < 5


def test_an_order_is_followed_and_must_name_each_server_once() -> None:
    servers = _servers("a", "b", "c")
    assert [one.server_id for one in build(servers, order=["b", "c", "a"]).servers] == ["b", "c", "a"]
    for order, named in ((["a", "b"], "c is missing"), (["a", "b", "c", "a"], "a is there twice"), (["a", "x"], "'x'")):
        with pytest.raises(SpecError) as caught:
            build(servers, order=order)
        assert named in str(caught.value)


@pytest.mark.parametrize("version", ["1.0", "1.2", "legacy", "legacy-lab"])
@pytest.mark.parametrize("to", ["1.0", "1.2", "legacy", "legacy-lab"])
def test_conversion_keeps_who_is_which_rank_with_which_address(version: str, to: str) -> None:
    def who(table: RankTable) -> "list[tuple[Any, ...]]":
        return [(one.rank_id, server.server_id, one.device_id, one.device_ips) for server, one in table.devices()]

    converted = convert(a_table(version), to)
    assert converted.version == to
    assert who(read_back(converted)) == who(a_table(version))
    assert [fault for fault in check(converted) if fault.fatal] == []


def test_what_a_version_cannot_say_is_refused() -> None:
    with pytest.raises(SpecError, match="A5"):
        convert(a_table("2.0"), "1.0")
    with pytest.raises(SpecError, match="device 0-7"):
        convert(a_table("1.0"), "2.0")
    with pytest.raises(SpecError, match="did you mean"):
        convert(a_table("1.0"), "1.3")


def test_numbers_for_texts_and_texts_for_numbers_are_read_all_the_same() -> None:
    loose = json.loads(json.dumps(document_of(a_table("1.0"))), parse_int=int)
    loose["server_count"] = 2
    for server in loose["server_list"]:
        for device in server["device"]:
            device.update(rank_id=int(device["rank_id"]), device_id=int(device["device_id"]))
    assert read(json.dumps(loose), "x").table == a_table("1.0")
    tight = document_of(a_table("2.0"))
    for rank in tight["rank_list"]:
        rank.update(rank_id=str(rank["rank_id"]), device_id=str(rank["device_id"]))
    assert read(json.dumps(tight), "x").table == a_table("2.0")


_json = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


@given(_json, st.sampled_from([None, 1, "\t"]))
def test_every_value_of_a_json_text_is_found_at_its_place(value: Any, indent: Any) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False)

    def walk(inner: Any, path: "tuple[str | int, ...]") -> None:
        offset = offset_of(text, path)
        assert json.JSONDecoder().raw_decode(text, offset)[0] == inner
        line, column = line_and_column(text, offset)
        assert text.split("\n")[line - 1][column - 1 :].startswith(text[offset])
        for key, one in (
            inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
        ):
            walk(one, (*path, key))

    walk(value, ())
