"""`ascendrun doctor`, as a person types it: planted problems on the right hosts, and none on healthy ones."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.checks.facts import CHECKS
from tests.conftest import Cli, wait_for
from tests.integration.far import Far, give_devices, nothing_left
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
        (["--collective"], "--collective pairs hosts with one another"),
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


# ── what a launch looks at by itself ─────────────────────────────────────────────────────────────────────────


def test_a_launch_ends_where_its_devices_are_ill_and_not_for_others(
    cli: Cli, new_testbed: "Callable[[int], Testbed]"
) -> None:
    bed = new_testbed(2)
    cli.environment["HOME"] = str(bed.home)
    for host in bed.hosts:
        give_devices(bed, host, 4)
    bed.npu_state(bed.hosts[0], "process 0 4711 python 30000")
    bed.npu_state(bed.hosts[1], "health 2 Alarm", "hot 1 90")
    words = ["launch", "--hosts", str(bed.hosts_yaml), "--run-dir", str(cli.folder)]
    refused = cli(*words, "--devices", "0,2", "--", "true", code=3).stderr.splitlines()
    assert refused[0].startswith("ascendrun: node1: device 0 is used by pid 4711: python, 30000 MB; ")
    assert refused[1].startswith("node2: device 2: health is Alarm; ")
    assert refused[2] == "nothing was started; --skip-doctor launches all the same"
    assert len(refused) == 3
    assert not [path for path in cli.folder.iterdir() if path.name != "home"]
    taken = cli(*words, "--devices", "1,3", "--", "true")
    assert "warning: node2: device 1: 90 °C" in taken.stderr.splitlines()
    cli(*words, "--devices", "0,2", "--skip-doctor", "--", "true")


def test_a_launch_on_cpus_is_ended_by_hosts_that_do_not_fit_and_asks_no_tool(
    cli: Cli, new_testbed: "Callable[[int], Testbed]"
) -> None:
    bed = new_testbed(2)
    cli.environment["HOME"] = str(bed.home)
    bed.npu_state(bed.hosts[1], "hang")  # who asks npu-smi waits
    words = ["launch", "--hosts", str(bed.hosts_yaml), "--devices", "1", "--", "true"]
    assert "warning" not in cli(*words, timeout=30).stderr
    bed.exec(bed.hosts[1], ["mount", "-t", "tmpfs", "-o", "size=20g,nr_inodes=400", "few", "/srv/work"])
    refused = cli(*words, code=3).stderr
    assert refused.startswith("ascendrun: node2: ") and "more files fit on the disk of /srv/work" in refused
    cli(*words[:-2], "--skip-doctor", *words[-2:])


# ── all-reduces over pairs of hosts ──────────────────────────────────────────────────────────────────────────

needs_mindspore = pytest.mark.skipif(importlib.util.find_spec("mindspore") is None, reason="MindSpore is not installed")


@needs_mindspore
@pytest.mark.timeout(240)
def test_a_host_behind_a_slow_link_is_named_by_all_reduces_over_pairs(far: Far) -> None:
    far.bed.slow(far.bed.hosts[2], "100mbit")
    report = told(far.cli, far.bed, "--collective", code=3)
    assert codes(report) == {("node3", "all-reduce-slow")}
    assert [host["checks"]["collective"] for host in report["hosts"]] == ["pass", "pass", "failure", "pass"]
    slow = [one for one in report["pairs"] if "node3" in one["hosts"]]
    assert {one["round"] for one in slow} == {1, 2}
    for one in slow:
        assert 0 < one["bytes_per_s"] < 100e6 / 8
    assert nothing_left(far.bed, far.before) == []
    for host in far.bed.hosts:
        kept = far.bed.exec(host, ["ls", "/srv/work/.ascendrun"]).stdout.split()
        assert len(kept) == 1 and kept[0].startswith("supervisor-")


@needs_mindspore
@pytest.mark.timeout(120)
def test_ctrl_c_among_all_reduces_leaves_nothing_on_any_host(far: Far) -> None:
    running = far.cli.start("doctor", "--hosts", str(far.bed.hosts_yaml), "--collective")

    def ranks() -> int:
        found = (far.bed.exec(host, ["pgrep", "-f", "rank.py"], check=False).stdout.split() for host in far.bed.hosts)
        return sum(map(len, found))

    wait_for(lambda: ranks() == 4, 60)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert running.returncode == 130
    assert said.splitlines()[-1] == "ascendrun: interrupted"
    assert nothing_left(far.bed, far.before) == []
    for host in far.bed.hosts:
        assert "pair-" not in far.bed.exec(host, ["ls", "/srv/work/.ascendrun"]).stdout


def test_hosts_without_mindspore_make_no_all_reduce_and_each_is_told(cli: Cli, testbed: Testbed) -> None:
    entries = yaml.safe_load(testbed.hosts_yaml.read_text())["hosts"]
    for entry in entries:
        entry["python"] = "/usr/bin/python3"
    (cli.folder / "hosts.yaml").write_text(yaml.safe_dump({"hosts": entries[:3]}))
    words = ["--hosts", "hosts.yaml", "--ssh-config", str(testbed.ssh_config), "--collective", "--json"]
    report = json.loads(cli("doctor", *words).stdout)
    assert codes(report) == {(f"node{number}", "all-reduce-not-run") for number in (1, 2, 3)}
    assert report["pairs"] == []
