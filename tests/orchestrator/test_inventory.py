from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.inventory import Device, Host, select_devices, spell_ids

EIGHT = tuple(Device(device_id) for device_id in range(8))
id_sets = st.sets(st.integers(0, 40), min_size=1, max_size=20).map(sorted)


def ids(text: str, available: Sequence[Device] = EIGHT) -> "list[int]":
    return [device.device_id for device in select_devices(text, available)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("8", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("1", [0]),
        (" 3 ", [0, 1, 2]),
        ("0,2", [0, 2]),
        ("2,0", [0, 2]),
        ("4-7", [4, 5, 6, 7]),
        ("5-5", [5]),
        ("0-0", [0]),
        ("0-1,6,4-4", [0, 1, 4, 6]),
        ("0 - 1 , 3", [0, 1, 3]),
        ("07,1", [1, 7]),
    ],
)
def test_counts_lists_and_ranges_select_devices_in_ascending_order(text: str, wanted: "list[int]") -> None:
    assert ids(text) == wanted


def test_a_count_takes_the_first_devices_that_there_are() -> None:
    assert ids("2", [Device(3), Device(5), Device(9)]) == [3, 5]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0", "at least one device"),
        ("000", "at least one device"),
        ("9", "offers 8 (0-7)"),
        ("1000000000000000000000000", "offers 8 (0-7)"),
        ("8,9", "no device 8-9"),
        ("0-8", "no device 8"),
        ("3-1", "write 1-3"),
        ("1,3-1", "write 1-3"),
        ("2,2", "device 2 is named twice"),
        ("0-3,3-4", "device 3 is named twice"),
        ("0-99999999", "offers 8 (0-7)"),
        ("999999999", "offers 8 (0-7)"),
        ("0-999999999999", "neither a device number nor a range"),
        ("", "neither a device number nor a range"),
        (",", "neither a device number nor a range"),
        ("1,", "neither a device number nor a range"),
        ("-1", "neither a device number nor a range"),
        ("1-", "neither a device number nor a range"),
        ("1-2-3", "neither a device number nor a range"),
        ("all", "neither a device number nor a range"),
        ("1.5", "neither a device number nor a range"),
        ("+3", "neither a device number nor a range"),
        ("٣", "neither a device number nor a range"),
        ("²", "neither a device number nor a range"),
    ],
)
def test_a_selection_that_cannot_be_met_says_why_in_one_line(text: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        select_devices(text, EIGHT)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_many_wide_ranges_are_refused_without_a_flood_of_numbers() -> None:
    with pytest.raises(SpecError) as caught:
        select_devices(",".join(["0-1000"] * 300), EIGHT)
    assert len(str(caught.value)) < 5_000


def test_no_device_can_be_had_from_a_host_without_devices() -> None:
    with pytest.raises(SpecError):
        select_devices("1", ())


@given(st.text(alphabet="0123456789,- x", max_size=12), id_sets)
def test_whatever_is_selected_is_an_ascending_subset_without_doubles(text: str, available: "list[int]") -> None:
    try:
        selected = ids(text, [Device(device_id) for device_id in available])
    except SpecError:
        return
    assert selected == sorted(set(selected))
    assert selected and set(selected) <= set(available)


@given(st.text(max_size=20))
def test_any_text_at_all_ends_in_devices_or_a_spec_error(text: str) -> None:
    try:
        assert select_devices(text, EIGHT)
    except SpecError as exc:
        assert str(exc).startswith("--devices")


@given(id_sets)
def test_spelled_ids_select_the_same_devices_again(wanted: "list[int]") -> None:
    spelled = spell_ids(wanted)
    if len(wanted) == 1:
        spelled = f"{spelled}-{spelled}"  # a number alone is a count
    assert ids(spelled, [Device(device_id) for device_id in range(41)]) == wanted


@given(id_sets)
def test_spelled_ids_are_as_short_as_ranges_can_be(wanted: "list[int]") -> None:
    breaks = sum(1 for before, after in zip(wanted, wanted[1:]) if after != before + 1)
    assert len(spell_ids(wanted).split(",")) == breaks + 1


def test_no_ids_are_spelled_as_nothing() -> None:
    assert spell_ids([]) == ""


@pytest.mark.parametrize("device_ids", [(1, 0), (0, 0)])
def test_a_host_with_doubled_or_unordered_devices_cannot_be_made(device_ids: "tuple[int, ...]") -> None:
    with pytest.raises(SpecError, match="node1"):
        Host("node1", "127.0.0.1", "cpu", tuple(Device(device_id) for device_id in device_ids), (0,))
