"""`ascendrun doctor`, as a person types it: planted problems on the right hosts, and none on healthy ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.checks.facts import CHECKS
from tests.conftest import Cli
from tests.testbed.bed import Host, Testbed

PORT = 7321
# Ends with its input.
LISTEN = f"""
import socket, sys
listener = socket.socket()
listener.bind(("", {PORT}))
listener.listen(99)
print("up", flush=True)
sys.stdin.read()
"""


def doctor(cli: Cli, bed: Testbed, *words: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
    return cli("doctor", "--hosts", str(bed.hosts_yaml), "--ssh-config", str(bed.ssh_config), *words, code=code)


def told(cli: Cli, bed: Testbed, *words: str, code: int = 0) -> "dict[str, Any]":
    found: "dict[str, Any]" = json.loads(doctor(cli, bed, "--json", *words, code=code).stdout)
    return found


def codes(report: "dict[str, Any]") -> "set[tuple[str, str]]":
    return {(one["host"], one["code"]) for one in report["findings"]}


def write(bed: Testbed, host: Host, path: str, text: str) -> None:
    bed.exec(host, ["sh", "-c", f"mkdir -p {os.path.dirname(path)}; cat > {path}"], input=text)


# Lines for the stand-ins of a host -> what doctor must say of it, and of nobody else.
SAID_BY_TOOLS = (
    (["health 3 Alarm 8C03A000 8C084E00"], {"device-health"}),
    (["health 0 Warning"], {"device-health"}),
    (["missing 6"], {"device-missing", "devices-differs"}),
    (["no_driver"], {"npu-smi-refuses"}),
    (["used"], {"npu-smi-refuses"}),
    (["no_card"], {"npu-smi-refuses"}),
    (["incomplete"], {"driver-incomplete"}),
    (["hang"], {"npu-smi-hangs", "hccn-tool-hangs"}),
    (["link_down 5"], {"link-down"}),
    (["net_health 1 Socket fail"], {"net-health"}),
    (["tls 2"], {"tls-differs"}),
    (["process 3 999999 python 30000"], {"device-in-use"}),
    (["hot 4 92"], {"device-hot"}),
    (["says a new layout of 2031"], {"npu-smi-not-understood"}),
)


def test_what_is_wrong_with_devices_is_found_on_the_right_host(
    cli: Cli, new_testbed: "Callable[[int], Testbed]"
) -> None:
    bed = new_testbed(16)
    assert codes(told(cli, bed)) == set()
    planted: "set[tuple[str, str]]" = set()
    for host, (lines, wanted) in zip(bed.hosts, SAID_BY_TOOLS):
        bed.npu_state(host, *lines)
        planted |= {(host.name, code) for code in wanted}
    bare, twice = bed.hosts[14], bed.hosts[15]
    bed.exec(bare, ["ip", "address", "del", f"{bare.device_ips[2]}/16", "dev", "eth0"])
    bed.exec(twice, ["ip", "address", "del", f"{twice.device_ips[1]}/16", "dev", "eth0"])
    theirs = f"{bed.hosts[1].device_ips[1]}/16"
    bed.exec(twice, ["ip", "address", "add", theirs, "dev", "eth0", "label", "eth0:npu1"])
    planted |= {("node15", "address-missing"), ("node16", "address-differs"), ("node16", "address-twice")}
    report = told(cli, bed, "--timeout", "4", code=3)
    assert codes(report) == planted
    said = {one["code"]: one for one in report["findings"]}
    assert "8C03A000 8C084E00" in next(one["problem"] for one in report["findings"] if one["host"] == "node1")
    assert "device 6" in said["device-missing"]["problem"]
    assert "pid 999999" in said["device-in-use"]["problem"]
    assert said["tls-differs"]["commands"] == ["hccn_tool -i 2 -tls -s enable 0"]
    assert all(one["remedy"] for one in report["findings"])
    not_understood = report["hosts"][13]["npu_smi"]
    assert (not_understood["understood"], not_understood["text"]) == (False, "a new layout of 2031\n")


def test_what_is_wrong_with_hosts_is_found_on_the_right_one(cli: Cli, new_testbed: "Callable[[int], Testbed]") -> None:
    bed = new_testbed(16)
    hosts = bed.hosts
    entries = yaml.safe_load(bed.hosts_yaml.read_text())["hosts"]
    for host in hosts:
        write(bed, host, "/usr/local/Ascend/firmware/version.info", "Version=7.7.0.6.236\n")
        write(bed, host, "/usr/local/Ascend/ascend-toolkit/latest/x-linux/ascend_toolkit_install.info", "version=8.1\n")

    bed.exec(hosts[0], ["ip", "link", "set", "eth0", "mtu", "1400"])
    bed.stop_sshd(hosts[1])
    bed.exec(hosts[2], ["mount", "-t", "tmpfs", "-o", "size=32m", "small", "/dev/shm"])
    bed.exec(hosts[3], ["mount", "-t", "tmpfs", "-o", "size=300m", "small", "/srv/work"])
    bed.exec(hosts[4], ["mount", "-t", "tmpfs", "-o", "size=20g,nr_inodes=400", "few", "/srv/work"])
    bed.exec(hosts[5], ["mount", "-t", "tmpfs", "-o", "size=20g,ro", "read", "/srv/work"])
    bed.exec(hosts[6], ["ip", "route", "add", "unreachable", hosts[7].address])
    write(bed, hosts[8], "/usr/local/Ascend/driver/version.info", "Version=23.0.7\nascendhal_version=7\n")
    write(bed, hosts[9], "/usr/local/Ascend/firmware/version.info", "Version=7.1.0.11.220\n")
    write(
        bed, hosts[10], "/usr/local/Ascend/ascend-toolkit/latest/x-linux/ascend_toolkit_install.info", "version=8.0\n"
    )
    bed.exec(hosts[11], ["mkdir", "-p", "/root/other/mindspore-9.9.9.dist-info"])
    entries[11]["setup"] = "export PYTHONPATH=/root/other"
    entries[12]["python"] = "no-such-python"
    entries[13]["setup"] = "ulimit -n 256"
    entries[14]["setup"] = "ulimit -u 600"
    entries[15]["setup"] = "taskset -cp 0 $$"
    (cli.folder / "hosts.yaml").write_text(yaml.safe_dump({"hosts": entries}))
    listening = subprocess.Popen(
        bed.inside(hosts[0], [sys.executable, "-c", LISTEN]), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert listening.stdout is not None and listening.stdout.readline() == b"up\n"
    try:
        report = json.loads(
            cli("doctor", "--hosts", "hosts.yaml", "--ssh-config", str(bed.ssh_config), "--json", "--port", str(PORT),
                code=3).stdout
        )  # fmt: skip
    finally:
        listening.communicate(timeout=30)
    planted = {
        ("node1", "mtu-differs"),
        ("node1", "port-taken"),
        ("node2", "not-connected"),
        ("node3", "shared-memory-small"),
        ("node4", "disk-full"),
        ("node5", "inodes-few"),
        ("node6", "folder-not-writable"),
        ("node7", "not-reached"),
        ("node9", "driver-differs"),
        ("node10", "firmware-differs"),
        ("node11", "cann-differs"),
        ("node12", "mindspore-differs"),
        ("node13", "python-unusable"),
        ("node14", "open-files-few"),
        ("node15", "processes-few"),
    }
    if (os.cpu_count() or 1) > 1:
        planted.add(("node16", "cpus-differs"))
    assert codes(report) == planted
    assert report["hosts"][7]["checks"] == dict.fromkeys(CHECKS, "pass")
    assert report["hosts"][1]["checks"]["python"] is None


def test_the_table_names_hosts_and_checks_and_says_what_helps(cli: Cli, testbed: Testbed) -> None:
    shown = doctor(cli, testbed).stdout.splitlines()
    assert shown[0].split() == ["host", *CHECKS]
    assert shown[-1] == "4 of 4 hosts pass"
    testbed.npu_state(testbed.hosts[2], "link_down 5", "incomplete")
    shown = doctor(cli, testbed, code=3).stdout.splitlines()
    assert "FAILS node3: device 5: its link is down" in shown
    assert shown[-1] == "3 of 4 hosts pass, with 1 warning"
    script = doctor(cli, testbed, "--fix", code=3).stdout
    assert "# node3: device 5: its link is down;" in script
    assert "\nhccn_tool -i 5 -cfg recovery\n" in script


def test_a_warning_alone_is_no_failure(cli: Cli, testbed: Testbed) -> None:
    testbed.npu_state(testbed.hosts[0], "health 2 Warning")
    assert codes(told(cli, testbed)) == {("node1", "device-health")}


def test_what_has_changed_since_the_baseline_is_shown(cli: Cli, testbed: Testbed) -> None:
    saved = doctor(cli, testbed, "--save")
    assert saved.stderr.startswith("the baseline is kept in ")
    assert "changed" not in doctor(cli, testbed).stdout
    testbed.npu_state(testbed.hosts[1], "health 7 Warning")
    changed = [line for line in doctor(cli, testbed).stdout.splitlines() if line.startswith("changed")]
    assert changed == ["changed since the baseline: node2: device 7 health: OK before, Warning now"]


def test_what_earlier_runs_left_is_told(cli: Cli, testbed: Testbed) -> None:
    marks = ["env", "ASCENDRUN_RUN_ID=gone-1", "ASCENDRUN_RUN_FOLDER=/srv/work/gone"]
    left = subprocess.Popen(testbed.inside(testbed.hosts[3], [*marks, "sleep", "600"]))
    try:
        assert codes(told(cli, testbed)) == {("node4", "leftovers")}
    finally:
        testbed.exec(testbed.hosts[3], ["pkill", "-x", "sleep"])
        left.wait()


def test_one_who_may_not_ask_hccn_tool_is_told_and_nothing_is_made_up(cli: Cli, testbed: Testbed) -> None:
    testbed.npu_state(testbed.hosts[0], "no_such_line")
    tool = "/usr/local/Ascend/driver/tools/hccn_tool"
    text = testbed.exec(testbed.hosts[0], ["cat", tool]).stdout
    write(
        testbed,
        testbed.hosts[0],
        tool,
        "#!/bin/sh\necho 'permission denied: pls check this cmd run permission.'\nexit 12\n",
    )
    try:
        assert codes(told(cli, testbed)) == {("node1", "hccn-tool-not-for-us")}
    finally:
        write(testbed, testbed.hosts[0], tool, text)


def test_this_machine_is_looked_at_without_a_file(cli: Cli) -> None:
    done = cli("doctor", "--json", code=None)
    report = json.loads(done.stdout)
    assert done.returncode == (3 if report["failed"] else 0)
    (host,) = report["hosts"]
    assert host["host"] == os.uname().nodename
    assert host["told"]["python"] == "{}.{}.{}".format(*sys.version_info)
    assert host["checks"]["connection"] == "pass"


def test_a_job_that_needs_what_is_not_there_is_told(cli: Cli) -> None:
    (cli.folder / "job.yaml").write_text("name: j\ncommand: [no-such-program]\n")
    report = json.loads(cli("doctor", "--job", "job.yaml", "--json", code=3).stdout)
    assert "program-missing" in {one["code"] for one in report["findings"]}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--hosts", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
        (["--job", "nowhere"], "no job named 'nowhere'"),
        (["--port", "99999"], "99999"),
        (["--timeout", "soon"], "soon"),
        (["--sawe"], "No such option"),
        (["extra"], "unexpected extra argument"),
    ],
)
def test_input_that_cannot_be_used_is_refused_in_one_line(cli: Cli, words: "list[str]", reason: str) -> None:
    done = cli("doctor", *words, code=2)
    assert len(done.stderr.splitlines()) == 1
    assert reason in done.stderr
    assert done.stdout == ""


def test_a_damaged_baseline_is_none(cli: Cli) -> None:
    cli("doctor", "--save", code=None)
    (kept,) = Path(cli.environment["ASCENDRUN_HOME"], "doctor").iterdir()
    kept.write_text("[1, {")
    done = cli("doctor", code=None)
    assert "changed" not in done.stdout and "Traceback" not in done.stderr
