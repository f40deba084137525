"""What real hosts answered, as published by their users, read as the truth beside each says."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from orchestrator.probes import npu, npuqueries, versions
from orchestrator.probes.network import Port, parse_ports
from orchestrator.probes.npuinfo import parse_info
from tests.conftest import SHARED

CAPTURES = SHARED / "ascend" / "captures"
SAMPLES = SHARED / "ascend" / "samples"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the captures in ../shared are not there")


def captures(folder: str) -> "list[Path]":
    return sorted((CAPTURES / folder).glob("[0-9]*.json"))


def text_of(path: Path) -> str:
    return path.with_suffix(".txt").read_text(encoding="utf-8")


def within(truth: "dict[str, Any]", found: "dict[str, Any]") -> "dict[str, Any]":
    return {key: found[key] for key in truth}


@pytest.mark.parametrize("path", captures("npu-smi"), ids=lambda path: path.stem)
def test_what_npu_smi_showed_is_read_in_full(path: Path) -> None:
    truth, text = json.loads(path.read_text(encoding="utf-8")), text_of(path)
    told = parse_info(text)
    if truth["devices"] is not None:
        assert [within(one, asdict(device)) for one, device in zip(truth["devices"], told.devices)] == truth["devices"]
        assert len(told.devices) == len(truth["devices"])
        assert [within(one, asdict(process)) for one, process in zip(truth["processes"], told.processes)] == (
            truth["processes"]
        )
        assert len(told.processes) == len(truth["processes"])
        assert told.version == truth["version"]
        assert told.driver_version == truth.get("driver_version", truth["version"])
        assert told.truncated == bool(truth.get("truncated", False))
        assert told.understood
        return
    assert told.devices == ()
    known = {"health", "mapping", "topology"} & set(truth)
    assert known, f"{path}: it says nothing that is compared here"
    if "health" in truth:
        (health,) = npuqueries.parse_health(text)
        assert json.loads(json.dumps(asdict(health))) == truth["health"]
    if "mapping" in truth:
        found = [asdict(one) for one in npuqueries.parse_mapping(text)]
        assert [within(one, line) for one, line in zip(truth["mapping"], found)] == truth["mapping"]
        assert len(found) == len(truth["mapping"])
    if "topology" in truth:
        topology = npuqueries.parse_topology(text)
        assert len(topology.devices) == truth["topology"]["devices"]
        near = {name.replace("NPU", ""): cpus for name, cpus in topology.cpu_affinity.items()}
        assert near == truth["topology"]["cpu_affinity"]


def of_all(ports: "tuple[Port, ...]", key: str) -> Any:
    """Return what all ports that say it say alike."""
    values = {value for port in ports if (value := getattr(port, key)) is not None}
    assert len(values) == 1, f"{key}: {values}"
    return values.pop()


@pytest.mark.parametrize("path", captures("hccn"), ids=lambda path: path.stem)
def test_what_hccn_tool_and_its_file_said_is_read_in_full(path: Path) -> None:
    truth = json.loads(path.read_text(encoding="utf-8"))
    told = parse_ports(text_of(path))
    ports = {str(port.device): port for port in told.ports}
    compared = 0
    for key, wanted in truth.items():
        compared += 1
        if key == "ips":
            assert {str(device): address for device, address in told.addresses().items()} == wanted
        elif key in ("netmask", "gateway", "net_health", "fec", "switch_port"):
            assert of_all(told.ports, key) == wanted
        elif key == "netdetect":
            assert of_all(told.ports, "detect") == wanted
        elif key == "device":
            assert list(ports) == [str(wanted)]
        elif key == "link_up_count":
            assert of_all(told.ports, "link_up_count") == wanted
        elif key == "link":
            assert of_all(told.ports, "link") == wanted.split()[0]
        elif key == "link_latest":
            assert {device: port.link for device, port in ports.items()} == wanted
        elif key == "tls":
            assert {device: int(bool(port.tls)) for device, port in ports.items()} == wanted
        elif key == "tls_enable":
            assert int(of_all(told.ports, "tls")) == wanted
        elif key == "optical_present":
            assert ports["0"].optical is not None and ports["0"].optical.present == (wanted == "present")
        elif key == "roce_err_pkts":
            found = {
                device: {way: port.statistics[f"roce_{way}_err_pkt_num"] for way in ("rx", "tx")}
                for device, port in ports.items()
            }
            assert found == wanted
        elif key.startswith("roce_"):
            assert ports[str(truth["device"])].statistics[key] == wanted
        elif key == "send_arp_status":
            assert {port.settings[key] for port in told.ports} == {str(wanted)}
        elif key == "truncated":
            assert wanted or not told.truncated
        else:
            compared -= 1
    assert compared, f"{path}: it says nothing that is compared here"
    assert told.understood


# Folder/name of a sample -> devices and processes in it.
TABLES = {
    "real_info_910A_x1_warning_23.0.rc3": (1, 0),
    "real_info_910B2C_x2_running_25.0.rc1.2": (2, 3),
    "real_info_910B4_x1_idle_26.0.rc1": (1, 0),
    "real_info_910ProB_x8_idle_24.1.0": (8, 0),
    "real_info_A3_x16_idle_24.1.rc3.7": (16, 0),
    "synthetic_info_910B3_x7_npu3_dropped_25.2.3": (7, 7),
    "synthetic_info_910B3_x8_blank_process_name_24.1.rc2": (8, 1),
    "synthetic_info_910B3_x8_running_25.2.3": (8, 8),
    "synthetic_info_910B3_x8_running_26.0.rc1": (8, 8),
    "synthetic_info_910ProB_x8_npu5_alarm_24.1.0": (8, 7),
    "synthetic_info_910ProB_x8_running_24.1.0": (8, 8),
    "synthetic_info_A3_x16_running_25.5.1": (16, 16),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_every_product_and_driver_are_read(name: str) -> None:
    text = (SAMPLES / "npu-smi" / f"{name}.txt").read_text(encoding="utf-8")
    told = parse_info(text)
    assert (len(told.devices), len(told.processes), told.understood) == (*TABLES[name], True)
    assert all(device.hbm_total_mb in (32768, 65536) for device in told.devices)
    assert told.version is not None and name.endswith(told.version)
    assert [device.device_id for device in told.devices] == sorted({device.device_id for device in told.devices})


@pytest.mark.parametrize(
    "path", sorted((SAMPLES / "npu-smi").glob("fail_*.txt")), ids=lambda path: path.stem.partition("_")[2]
)
def test_a_refusal_is_understood_and_shows_no_device_that_is_not_there(path: Path) -> None:
    told = parse_info(path.read_text(encoding="utf-8"))
    assert told.understood
    assert (told.problem is not None) != bool(told.devices)
    assert told.incomplete_driver == ("incomplete" in path.name)


@pytest.mark.parametrize("path", sorted((SAMPLES / "hccn").glob("*.txt")), ids=lambda path: path.stem)
def test_every_answer_of_hccn_tool_is_understood(path: Path) -> None:
    told = parse_ports(path.read_text(encoding="utf-8"))
    assert told.understood == (path.stem != "real_ip_unset_stdout")
    assert all((port.problem is not None) == path.stem.endswith("stderr") for port in told.ports)


def sample(folder: str, name: str) -> str:
    return (SAMPLES / folder / name).read_text(encoding="utf-8")


def test_answers_to_queries_give_the_figures_that_stand_in_them() -> None:
    def text(name: str) -> str:
        return sample("npu-smi", f"{name}.txt")

    (alarm,) = npuqueries.parse_health(text("synthetic_health_chip_alarm"))
    assert (alarm.status, alarm.error_codes) == ("Alarm", ("A4025021", "8C03A000", "8C084E00"))
    dies = npuqueries.parse_health(text("synthetic_health_card_multi_die"))
    assert [(one.npu, one.chip, one.status) for one in dies] == [(3, 0, "OK"), (3, 1, "Warning")]
    assert [one.status for one in npuqueries.parse_health(text("real_health_chip_ok"))] == ["OK"]
    (ecc,) = npuqueries.parse_ecc(text("synthetic_ecc_910B"))
    assert (ecc.npu, ecc.chip, ecc.hbm_double, ecc.hbm_single_total, ecc.hbm_double_isolated_pages) == (0, 0, 0, 3, 1)
    assert npuqueries.parse_ecc(text("synthetic_ecc_910A"))[0].npu == 0
    chip, mcu = npuqueries.parse_sensors(text("real_common_910B"))[:2]
    assert (chip.npu, chip.chip, chip.temp_c, chip.power_w, chip.hbm_pct) == (1, 0, 46, 93.4, 5)
    assert mcu.chip is None
    (memory,) = npuqueries.parse_sensors(text("synthetic_memory_910B"))
    assert (memory.npu, memory.hbm_capacity_mb, memory.hbm_temp_c) == (1, 65536, 46)
    for name in ("real_usages_910A", "synthetic_usages_910B"):
        assert npuqueries.parse_sensors(text(name))[0].aicore_pct is not None
    for name in ("real_board_910A", "real_board_chip_910A"):
        assert npuqueries.parse_records(text(name))[0].values
    assert npu.parse_spod(text("synthetic_spod_info_A3")) is not None
    for name, count in (("real_topo_910B_x8", 8), ("real_topo_A3_2dies_container", 2)):
        topology = npuqueries.parse_topology(text(name))
        assert len(topology.devices) == count
        assert len(topology.links) == count * count
    for name, count in (("real_m_910A_x8", 8), ("synthetic_m_910A_x8_with_mcu", 8), ("synthetic_m_A3_x16", 16)):
        mapped = [one for one in npuqueries.parse_mapping(text(name)) if one.logic_id is not None]
        assert len(mapped) == count


# A sample of hccn_tool's answers -> what of a port it must give.
ANSWERS: "dict[str, dict[str, Any]]" = {
    "link_up": {"link": "UP"},
    "link_down": {"link": "DOWN"},
    "net_health_success": {"net_health": "Success"},
    "net_health_init": {"net_health": "Init"},
    "real_net_health_socket_failed": {"net_health": "Socket failed"},
    "tls_new": {"tls": False},
    "tls_old": {"tls": False},
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_of_hccn_tool_give_the_figures_that_stand_in_them(name: str) -> None:
    port = parse_ports(sample("hccn", f"{name}.txt")).ports[0]
    assert {key: getattr(port, key) for key in ANSWERS[name]} == ANSWERS[name]


def test_samples_of_optics_pings_and_host_files_give_what_stands_in_them() -> None:
    (lost,) = parse_ports(sample("hccn", "optical_rx_los_excerpt.txt")).ports
    assert lost.optical is not None and any("rx los flag" in fault for fault in lost.optical.faults())
    (good,) = parse_ports(sample("hccn", "optical_ok_excerpt.txt")).ports
    assert good.optical is not None and good.optical.faults() == []
    losses = [
        parse_ports(sample("hccn", name)).ports[0].pings[0].loss_pct for name in ("ping_ok.txt", "ping_timeout.txt")
    ]
    assert losses[0] == 0 and losses[1] == 100
    assert len(parse_ports(sample("host", "hccn.conf_x8")).addresses()) == 8
    assert parse_ports(sample("host", "hccn.conf_ipv6")).addresses()
    for name in ("driver_version.info", "firmware_version.info", "ascend_toolkit_install.info"):
        assert any("ersion" in key for key in versions.parse_settings(sample("host", name)))
    assert len(versions.parse_numa(sample("host", "lscpu_numa_kunpeng920_192c.txt"))) >= 4
