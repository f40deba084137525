"""The test bed is what its README says: hosts that answer, faults that bite, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.testbed import bed
from tests.testbed.bed import CHECKOUT, Host, Testbed
from tests.testbed.machine import BedError, run, state_of, unavailable, wait_until
from tests.testbed.registry import REGISTRY, owners

LAST_910B3 = """\
| 7     910B3               | OK            | 98.2        38                0    / 0             |
| 0                         | 0000:42:00.0  | 0           0    / 0          3440 / 65536         |
"""
LAST_A3 = """\
| 3     Ascend910           | OK            | -           37                0    / 0             |
| 1     7                   | 0000:42:00.0  | 0           0    / 0          3440 / 65536         |
"""
SUPER_POD_A3 = """\
	SDID                           : 5046279
	Super Pod Size                 : 384
	Super Pod ID                   : 0
	Server Index                   : 1
"""  # the second server's card 3, die 1: 1 << 22 | 3 << 18 | 1 << 16 | 7
HCCN_TOOL = "/usr/local/Ascend/driver/tools/hccn_tool"


def ssh(testbed: Testbed, host: Host, command: str, *options: str) -> "subprocess.CompletedProcess[str]":
    words = ["ssh", "-F", str(testbed.ssh_config), "-o", "BatchMode=yes", *options, host.name, command]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def tool(testbed: Testbed, host: Host, *argv: str) -> "tuple[int, str]":
    """Return exit code and output of a stand-in; what it said on stderr follows stdout."""
    done = testbed.exec(host, argv, check=False, timeout=30)
    return done.returncode, done.stdout + done.stderr


def left_of(testbed: Testbed) -> "list[str]":
    """Return what is left of a test bed on this machine."""
    return [
        *(str(path) for path in Path("/run/netns").glob(f"{testbed.bridge}-*")),
        *(str(path) for path in Path("/sys/class/net").glob(f"{testbed.bridge}*")),
        *(line for line in Path("/proc/self/mounts").read_text().splitlines() if f"{testbed.folder} " in line),
        *([str(testbed.folder)] if testbed.folder.exists() else []),
    ]


def test_each_host_answers_by_ssh_with_strict_host_key_checking(testbed: Testbed) -> None:
    for host in testbed.hosts:
        assert ssh(testbed, host, "hostname").stdout == f"{host.name}\n"
    stranger = ssh(testbed, testbed.hosts[0], "hostname", "-o", "UserKnownHostsFile=/dev/null")
    assert stranger.returncode == 255 and "Host key verification failed" in stranger.stderr
    assert len(set(testbed.known_hosts.read_text().split()[2::3])) == len(testbed.hosts)


def test_a_host_may_log_in_to_another_by_name(testbed: Testbed) -> None:
    first, second = testbed.hosts[:2]
    assert testbed.exec(first, ["ssh", "-o", "BatchMode=yes", second.name, "hostname"]).stdout == f"{second.name}\n"


def test_processes_and_files_are_the_hosts_own_but_for_the_shared_folder(testbed: Testbed) -> None:
    first, second = testbed.hosts[:2]
    for folder in ("/srv/work", "/tmp", "/root", "/etc", "/var/tmp", "/usr/local", "/run", "/dev/shm"):
        testbed.exec(first, ["touch", f"{folder}/mine"])
        assert testbed.exec(second, ["test", "-e", f"{folder}/mine"], check=False).returncode == 1
        assert not Path(folder, "mine").exists()
    testbed.exec(first, ["touch", "/srv/shared/ours"])
    testbed.exec(second, ["test", "-e", "/srv/shared/ours"])
    assert "boot.sh" in testbed.exec(first, ["cat", "/proc/1/cmdline"]).stdout
    assert not Path("/run/netns", first.namespace).samefile("/proc/self/ns/net")


def test_the_python_of_the_tests_runs_on_a_host(testbed: Testbed) -> None:
    imported = testbed.exec(
        testbed.hosts[0], [sys.executable, "-c", "import orchestrator; print(orchestrator.__file__)"]
    )
    assert imported.stdout.strip() == str(CHECKOUT / "orchestrator/__init__.py")


def test_orphans_are_reaped(testbed: Testbed) -> None:
    host = testbed.hosts[0]
    testbed.exec(host, ["setsid", "--fork", "true"])
    wait_until(lambda: " Z" not in testbed.exec(host, ["ps", "-eo", "pid,stat"]).stdout, "the orphan to be reaped")


def test_device_addresses_answer_on_the_other_hosts(testbed: Testbed) -> None:
    first, second = testbed.hosts[:2]
    assert len(set(first.device_ips + second.device_ips)) == 16
    for device, address in enumerate(second.device_ips):
        code, output = tool(testbed, first, HCCN_TOOL, "-i", str(device), "-ping", "-g", "address", address)
        assert code == 0 and "3 packets transmitted, 3 received, 0.00% packet loss" in output
        assert output.startswith(f"device {device} PING {address}\nrecv seq=0,time=0.")


def test_hccn_tool_tells_the_addresses_that_the_host_has_and_hccn_conf_those_it_should_have(testbed: Testbed) -> None:
    for host in testbed.hosts:
        conf = testbed.exec(host, ["cat", "/etc/hccn.conf"]).stdout
        for device, address in enumerate(host.device_ips):
            answer = tool(testbed, host, HCCN_TOOL, "-i", str(device), "-ip", "-g")
            assert answer == (0, f"ipaddr:{address}\nnetmask:255.255.0.0\n")
            assert f"address_{device}={address}\nnetmask_{device}=255.255.0.0\n" in conf
    host = testbed.hosts[0]
    change = ["dev", "eth0", "label", "eth0:npu5"]
    testbed.exec(host, ["ip", "address", "del", f"{host.device_ips[5]}/16", *change])
    assert tool(testbed, host, HCCN_TOOL, "-i", "5", "-ip", "-g") == (
        13, "Get ipconf failed, because no ip was preset there!\n")  # fmt: skip
    testbed.exec(host, ["ip", "address", "add", f"{host.device_ips[5]}/16", *change])


@pytest.mark.parametrize(
    ("state", "query", "code", "output"),
    [
        ("", "-i 2 -link -g", 0, "link status: UP\n"),
        ("link_down 2", "-i 2 -link -g", 0, "link status: DOWN\n"),
        ("link_down 2", "-i 3 -link -g", 0, "link status: UP\n"),
        ("", "-i 2 -net_health -g", 0, "net health status: Success\n"),
        ("link_down 2", "-i 2 -net_health -g", 0, "net health status: Fault\n"),
        ("net_health 1 Socket fail", "-i 1 -net_health -g", 0, "net health status: Socket fail\n"),
        ("tls 0", "-i 0 -tls -g", 0, "dev_id:0, tls switch[1](0:disable, 1:enable), tls preconfigured[1](0:non-preset,"
                                     " 1:preset), tls alarm time threshold[60]days\n"),
        ("missing 6", "-i 6 -ip -g", 4, "The device is not exist!\n"),
        ("", "-i 8 -ip -g", 4, "The device is not exist!\n"),
        ("link_down 0", "-i 0 -ping -g address 127.0.0.1", 0, "device 0 PING 127.0.0.1\nrecv time out seq=0\n"
         "recv time out seq=1\nrecv time out seq=2\n3 packets transmitted, 0 received, 100.00% packet loss\n"),
        ("", "-i 0 -nonsense", 1, "Cmd execute failed!\n"),
    ],
)  # fmt: skip
def test_hccn_tool_says_what_a_test_wants(testbed: Testbed, state: str, query: str, code: int, output: str) -> None:
    testbed.npu_state(testbed.hosts[0], state)
    assert tool(testbed, testbed.hosts[0], HCCN_TOOL, *query.split()) == (code, output)
    assert tool(testbed, testbed.hosts[1], HCCN_TOOL, "-i", "2", "-link", "-g") == (0, "link status: UP\n")


def test_hccn_tool_wants_root_and_to_be_alone(testbed: Testbed) -> None:
    host = testbed.hosts[0]
    ip = [HCCN_TOOL, "-i", "0", "-ip", "-g"]
    assert tool(testbed, host, "setpriv", "--reuid=65534", *ip) == (
        12, "permission denied: pls check this cmd run permission.\n")  # fmt: skip
    assert tool(testbed, host, "flock", "/run/hccn_tool.lock", *ip) == (1, "hccn_tool is busy, please try again.\n")


@pytest.mark.parametrize(
    ("state", "query", "code", "part"),
    [
        ("", "info", 0, LAST_910B3),
        ("health 3 Alarm 8C03A000", "info", 0, "| 3     910B3               | Alarm         |"),
        ("incomplete", "info", 0, "[WARNING]The driver package may not be completely installed"),
        ("", "info -m", 0, f"\t{7:<31}{0:<31}{7:<31}Ascend 910B3\n"),
        ("missing 0", "info -m", 0, f"Chip Name\n\t{1:<31}{0:<31}{0:<31}Ascend 910B3\n"),
        ("missing 0", "info -l", 0, "\tTotal Count                    : 7\n"),
        ("", "info -t health -i 3 -c 0", 0, "\tHealth Status                  : OK\n"
                                            "\tError Code                     : NA\n"),
        ("health 3 Alarm 8C03A000 8C084E00", "info -t health -i 3 -c 0", 0, ": 8C03A000 8C084E00\n"),
        ("", "info -t health -i 3", 0, "\tChip ID                        : 0\n\tHealth                         : OK\n"),
        ("", "info -t board -i 3", 0, "\tPCIe Bus Info                  : 0000:82:00.0\n"),
        ("", "info -t board -i 3 -c 0", 0, "\tChip Name                      : 910B3\n"),
        ("", "info -t board -i 8", 255, "Invalid card id.\nError parameter of -i\nUsage: npu-smi info"),
        ("", "info -t spod-info -i 0 -c 0", 193, "This device does not support querying spod-info.\n"),
        ("model A3", "info", 0, LAST_A3),
        ("model A3", "info -m", 0, f"\t{3:<31}{1:<31}{7:<31}{7:<31}Ascend910\n"),
        ("model A3", "info -t spod-info -i 3 -c 1", 0, SUPER_POD_A3),
        ("no_driver", "info", 187, "dcmi module initialize failed. ret is -8005\n"),
        ("used", "info", 172, "dcmi model initialized failed, because the device is used. ret is -8020\n"),
        ("no_card", "info", 255, "There is no NPU card on this server.\n"),
    ],
)  # fmt: skip
def test_npu_smi_says_what_a_test_wants(testbed: Testbed, state: str, query: str, code: int, part: str) -> None:
    host = testbed.hosts[1]
    testbed.npu_state(host, state)
    returned, output = tool(testbed, host, "npu-smi", *query.split())
    assert returned == code and part in output, output
    if query == "info" and code == 0:
        assert {len(line) for line in output.splitlines() if line[0] in "|+"} == {98}


def test_a_stand_in_may_hang(testbed: Testbed) -> None:
    host = testbed.hosts[0]
    testbed.npu_state(host, "hang")
    for argv in (["npu-smi", "info"], [HCCN_TOOL, "-i", "0", "-ip", "-g"]):
        assert testbed.exec(host, ["timeout", "0.5", *argv], check=False).returncode == 124


def test_a_crash_resets_connections_and_after_boot_the_disk_is_as_it_was(testbed: Testbed) -> None:
    host = testbed.hosts[0]
    testbed.exec(host, ["bash", "-c", "echo kept | tee /srv/work/f /etc/f /tmp/f; touch /run/f"])
    with socket.create_connection((host.address, 22), timeout=10) as connection:
        assert connection.recv(4) == b"SSH-"
        testbed.crash(host)
        assert testbed.processes(host) == []
        try:
            while connection.recv(1024):
                pass
        except ConnectionResetError:
            pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host.address, 22), timeout=10)
    with pytest.raises(BedError, match="node1 is not running"):
        testbed.exec(host, ["true"])
    testbed.boot(host)
    assert ssh(testbed, host, "cat /srv/work/f /etc/f /tmp/f; ls /run").stdout.split() == [
        "kept", "kept", "kept", "never", "sshd", "sshd.pid"]  # fmt: skip


@pytest.mark.parametrize("fault", ["power_cut", "cut"])
def test_a_host_without_power_or_cable_is_silent(testbed: Testbed, fault: str) -> None:
    host = testbed.hosts[0]
    with socket.create_connection((host.address, 22), timeout=10) as connection:
        connection.recv(1024)
        getattr(testbed, fault)(host)
        connection.settimeout(0.3)
        connection.send(b"SSH-2.0-x\r\n")
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert bool(testbed.processes(host)) == (fault == "cut")
    {"power_cut": testbed.boot, "cut": testbed.mend}[fault](host)
    assert ssh(testbed, host, "hostname").stdout == "node1\n"


def test_without_sshd_what_runs_lives_on(testbed: Testbed) -> None:
    host = testbed.hosts[0]
    with subprocess.Popen(testbed.inside(host, ["sleep", "infinity"])) as sleeper:
        testbed.stop_sshd(host)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host.address, 22), timeout=10)
        assert sleeper.poll() is None
        testbed.start_sshd(host)
        testbed.exec(host, ["pkill", "--exact", "sleep"])
    assert ssh(testbed, host, "hostname").stdout == "node1\n"


def test_a_hanging_host_accepts_and_never_answers(testbed: Testbed) -> None:
    host = testbed.hosts[0]
    testbed.hang(host)
    with socket.create_connection((host.address, 22), timeout=10) as connection:
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        testbed.unhang(host)
        connection.settimeout(10)
        assert connection.recv(4) == b"SSH-"


def test_a_slow_cable_is_slow_until_it_is_mended(testbed: Testbed) -> None:
    host = testbed.hosts[0]
    testbed.slow(host, "1mbit")
    started = time.monotonic()
    assert ssh(testbed, host, "head -c 300000 /dev/zero", "-o", "Compression=no").stdout.count("\0") == 300_000
    assert time.monotonic() - started > 1.8  # 300 kB take 2.4 s, less the first 64 kB
    testbed.mend(host)
    assert "tbf" not in run("tc", "qdisc", "show", "dev", host.cable)
    assert "tbf" not in testbed.exec(host, ["tc", "qdisc", "show", "dev", "eth0"]).stdout


def test_faults_are_undone_for_the_next_test(testbed: Testbed) -> None:
    crashed, hanging, silent, alarmed = testbed.hosts
    testbed.power_cut(crashed)
    testbed.hang(hanging)
    testbed.stop_sshd(silent)
    testbed.cut(silent)
    testbed.npu_state(alarmed, "no_card")
    testbed.heal()
    for host in testbed.hosts:
        assert ssh(testbed, host, "npu-smi info -l | head -1").stdout == "\tTotal Count                    : 8\n"


def test_two_test_beds_at_once_share_nothing_and_nothing_is_left_of_them(
    testbed: Testbed, new_testbed: "Callable[[int], Testbed]"
) -> None:
    with ThreadPoolExecutor() as pool:
        beds = list(pool.map(new_testbed, [1, 2]))
    for one in beds:
        for host in one.hosts:
            assert ssh(one, host, "hostname; cat /proc/mounts").stdout.startswith(f"{host.name}\n")
    assert len({one.number for one in (testbed, *beds)}) == 3
    processes = [pid for one in beds for host in one.hosts for pid in one.processes(host)]
    assert len(processes) >= 3
    beds[0].down()
    assert left_of(beds[0]) == []
    assert ssh(beds[1], beds[1].hosts[1], "hostname").stdout == "node2\n"
    beds[1].down()
    assert left_of(beds[1]) == []
    assert [pid for pid in processes if state_of(pid) not in "ZX"] == []
    assert ssh(testbed, testbed.hosts[0], "hostname").stdout == "node1\n"


def test_the_next_test_bed_takes_away_what_killed_owners_left(new_testbed: "Callable[[int], Testbed]") -> None:
    source = "from tests.testbed.bed import Testbed; print(Testbed.up(2).number, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", source], cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout
        abandoned = Testbed(int(owner.stdout.readline()), 2)
        new_testbed(1)
        processes = [pid for host in abandoned.hosts for pid in abandoned.processes(host)]
        assert len(processes) >= 4
        os.kill(owner.pid, signal.SIGKILL)
    half_built = REGISTRY / "127"
    half_built.mkdir()
    new_testbed(1)  # it may well get the number that the dead one had
    assert [pid for pid in processes if state_of(pid) not in "ZX"] == []
    namespace = Path("/run/netns", abandoned.hosts[1].namespace)
    assert abandoned.number in owners() or not namespace.exists(), "unless somebody else has the number by now"
    assert not half_built.exists()


def test_a_standing_test_bed_is_there_until_it_is_taken_down() -> None:
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    up = Testbed.up(1, standing=True)
    try:
        assert up.number in [found.number for found in Testbed.standing()]
        Testbed.up(1).down()
        assert ssh(up, up.hosts[0], "hostname").stdout == "node1\n"
        other = Testbed.up(1, standing=True)
        try:
            down = subprocess.run(
                [sys.executable, "-m", "tests.testbed", "down"], cwd=CHECKOUT, capture_output=True, text=True
            )
            assert down.returncode == 1 and "are up: say which" in down.stderr
            one = [sys.executable, "-m", "tests.testbed", "--bed", str(other.number), "down"]
            assert subprocess.run(one, cwd=CHECKOUT).returncode == 0
            assert left_of(other) == []
            assert ssh(up, up.hosts[0], "hostname").stdout == "node1\n"
        finally:
            other.down()
    finally:
        up.down()
    assert left_of(up) == []
    assert up.number not in [found.number for found in Testbed.standing()]


def test_a_host_that_does_not_boot_is_named_with_what_it_said(
    new_testbed: "Callable[[int], Testbed]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bed, "SSHD_CONFIG", "Nonsense yes\n")
    with pytest.raises(BedError, match=r"node1 did not boot: /etc/ssh/sshd_config: line 1: Bad configuration option"):
        new_testbed(1)


@pytest.mark.parametrize("count", [0, 251])
def test_a_test_bed_has_1_to_250_hosts(count: int) -> None:
    with pytest.raises(BedError, match=f"1 to 250 hosts, not {count}"):
        Testbed.up(count)
