"""What real hosts answered, as published by their users, read as the truth beside each says."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from orchestrator.probes import npuqueries
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
    "synthetic_info_910B3_x8_running_26.0.rc1": (8, 8),
    "synthetic_info_910ProB_x8_npu5_alarm_24.1.0": (8, 7),
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
