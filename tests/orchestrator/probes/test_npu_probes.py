"""`npu-smi`: what it says is read by its heads and keys, and what does not fit them is never a figure."""

from __future__ import annotations

import pytest

from orchestrator.probes import npuqueries
from orchestrator.probes.npuinfo import NpuDevice, NpuProcess, parse_info
from tests.orchestrator.probes.answers import processes, table

ONE = ("3 910B2 | OK | 91.5 41 2 / 8", "0 | 0000:81:00.0 | 12 0 / 0 3402/ 65536")


def test_a_device_is_read_whole() -> None:
    told = parse_info(table([ONE], version="24.1.rc3"))
    assert told.devices == (
        NpuDevice(3, 0, "910B2", "OK", 91.5, 41, "2/8", None, "0000:81:00.0", 12, 0, 0, 3402, 65536),
    )
    assert (told.version, told.driver_version, told.understood) == ("24.1.rc3", "24.1.rc3", True)


def test_where_columns_begin_counts_for_nothing() -> None:
    squeezed = "\n".join(" ".join(line.split()) for line in table([ONE]).splitlines())
    quoted = "\n".join(f"> {line}   " for line in table([ONE], widths="26").splitlines())
    assert parse_info(squeezed).devices == parse_info(quoted).devices == parse_info(table([ONE])).devices


def test_dies_of_one_card_have_ids_of_their_own_and_power_once() -> None:
    dies = [
        ("5 Ascend910 | OK | 170.2 36 0 / 0", "0 10 | 0000:89:00.0 | 0 0 / 0 3412 / 65536"),
        ("5 Ascend910 | Warning | - 37 0 / 0", "1 11 | 0000:8B:00.0 | 0 0 / 0 3189 / 65536"),
    ]
    first, second = parse_info(table(dies, "A3")).devices
    assert (first.npu, first.chip, first.device_id, first.power_w) == (5, 0, 10, 170.2)
    assert (second.npu, second.chip, second.device_id, second.power_w) == (5, 1, 11, None)
    assert second.health == "Warning"


def test_a_product_without_hbm_gets_no_figure_of_it() -> None:
    (device,) = parse_info(
        table([("2052 310P3 | OK | NA 55 0 / 0", "1 9 | NA | 0 927 / 23054")], "310P", "310P")
    ).devices
    assert (device.npu, device.chip, device.phy_id, device.bus_id) == (2052, 1, 9, "NA")
    assert (device.mem_used_mb, device.hbm_used_mb, device.power_w) == (927, None, None)


@pytest.mark.parametrize(
    "row",
    [
        ("3 910B2 | OK | 91.5 41", ONE[1]),  # a figure is missing: which one, only its column could tell
        ("3 910B2 | OK | 91.5 41 7 0 / 0", ONE[1]),
        (ONE[0], "0 | 0000:81:00.0 | 12 0 / 0 34O2/ 65536"),
        (ONE[0], "0 | 12 0 / 0 3402/ 65536"),
        ("three 910B2 | OK | 91.5 41 0 / 0", ONE[1]),
        (ONE[0], "+---+---+---+"),
    ],
)
def test_a_row_that_does_not_fit_its_heads_is_told_and_gives_no_device(row: "tuple[str, str]") -> None:
    told = parse_info(table([row, ("4 910B2 | OK | 90.0 40 0 / 0", "0 | 0000:82:00.0 | 0 0 / 0 1/ 65536")]))
    assert not told.understood
    assert all(device.npu == 4 for device in told.devices)
    assert told.unread and told.raw


@pytest.mark.parametrize("text", ["", "hello", "| a | b |\n| 1 | 2 |", "bash: npu-smi: command not found", "\0|\n|||"])
def test_what_is_no_table_is_not_understood_and_kept(text: str) -> None:
    told = parse_info(text)
    assert (told.understood, told.devices, told.raw) == (False, (), text)


@pytest.mark.parametrize(
    ("first", "second", "hbm_mb"),
    [
        (ONE[0], ONE[1], 3402),
        ("7 Ascend910 | OK | - 35 0 / 0", "1 15 | 0000:83:00.0 | 0 0 / 0 31877/ 65536", 31877),
        ("3 310P3 | OK | NA 55 0 / 0", "1 9 | NA | 0 927 / 23054", None),
    ],
)
def test_rows_that_somebody_copied_without_their_heads_are_read(first: str, second: str, hbm_mb: "int | None") -> None:
    told = parse_info(f"| {first} |\n| {second} |\n+===+===+===+\n")
    assert told.understood
    assert [(one.health, one.hbm_used_mb) for one in told.devices] == [("OK", hbm_mb)]
    half = parse_info(f"| {first} |\n| 0 | 1 | 2 |\n")
    assert (half.understood, half.devices) == (False, ())


def test_units_that_nobody_knows_are_no_figures() -> None:
    told = parse_info(table([ONE]).replace("HBM-Usage(MB)", "HBM-Usage(GB)"))
    assert told.devices[0].hbm_used_mb is None
    assert told.devices[0].aicore_pct == 12


def test_processes_have_the_fifth_column_of_newer_drivers_and_blank_names() -> None:
    newer = "NPU Chip | Process id | Process name | Process memory(MB) | Process id in container"
    text = table([ONE]) + processes("3  0 | 4711 |  | 19502 | 123", "No running processes found in NPU 4", heads=newer)
    assert parse_info(text).processes == (NpuProcess(3, 0, 4711, "", 19502, 123),)
    older = parse_info(table([ONE]) + processes("3 0 | 4711 | python3 | NA", "... | | |"))
    assert older.processes == (NpuProcess(3, 0, 4711, "python3", None),)
    assert older.truncated


def test_of_two_tables_in_a_record_the_later_counts() -> None:
    later = ("3 910B2 | Alarm | 91.5 41 2 / 8", ONE[1])
    (device,) = parse_info(table([ONE]) + "$ npu-smi info\n" + table([later])).devices
    assert device.health == "Alarm"


CARD = "\tNPU ID : 2\n\tChip Count : 2\n\n"


def test_the_number_of_a_chip_may_stand_before_its_lines_or_after_them() -> None:
    before = CARD + "\tChip ID : 0\n\tHealth : OK\n\n\tChip ID : 1\n\tHealth : Alarm\n"
    assert [(one.npu, one.chip, one.status) for one in npuqueries.parse_health(before)] == [
        (2, 0, "OK"),
        (2, 1, "Alarm"),
    ]
    key = "\tHBM Double Bit Error Count : "
    after = CARD + f"{key}0\n\tChip ID : 0\n\n{key}7\n\tChip ID : 1\n"
    assert [(one.chip, one.hbm_double) for one in npuqueries.parse_ecc(after)] == [(0, 0), (1, 7)]


def test_the_controller_beside_a_chip_does_not_lend_it_its_temperature() -> None:
    text = (
        "NPU ID : 1\nChip ID : 0\nTemperature(C) : 46\nNPU Real-time Power(W) : 93.4\n\n"
        "Chip Name : mcu\nTemperature(C) : 38\n"
    )
    chip, controller = npuqueries.parse_sensors(text)
    assert (chip.chip, chip.temp_c, chip.power_w) == (0, 46, 93.4)
    assert (controller.chip, controller.temp_c) == (None, 38)


def test_a_record_of_several_queries_is_parted_by_its_commands() -> None:
    text = "".join(
        f"$ npu-smi info -t health -i {npu} -c 0\n\tHealth Status : {said}\n\tError Code : {code}\n"
        for npu, said, code in ((0, "OK", "NA"), (7, "Alarm", "0x8C03A000 80E01801"))
    )
    first, second = npuqueries.parse_health(text)
    assert (first.npu, first.error_codes) == (0, ())
    assert (second.npu, second.status, second.error_codes) == (7, "Alarm", ("8C03A000", "80E01801"))


def test_the_map_of_ids_is_read_by_its_heads() -> None:
    text = "\tNPU ID   Chip ID   Chip Logic ID   Chip Phy-ID   Chip Name\n\t1 0 2 4 Ascend 910\n\t1 2 - - Mcu\n"
    chip, controller = npuqueries.parse_mapping(text)
    assert (chip.npu, chip.logic_id, chip.phy_id, chip.name) == (1, 2, 4, "Ascend 910")
    assert (controller.logic_id, controller.name) == (None, "Mcu")


def test_processes_of_one_card_are_read() -> None:
    text = "\tNPU ID : 0\n\tProcess id:3958  Process name:my test        Process memory(MB):5118\n"
    assert npuqueries.parse_processes(text) == [(3958, "my test", 5118)]
