"""`ascendrun hosts`, as a person types it."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.conftest import ASCENDRUN, Cli, wait_for
from tests.integration.terminal import at_terminal, locked_key
from tests.testbed.bed import Testbed


def ask(cli: Cli, testbed: Testbed, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
    return cli("hosts", "--ssh-config", str(testbed.ssh_config), *arguments, code=code)


def reports(cli: Cli, testbed: Testbed, *arguments: str, code: int = 0) -> "list[dict[str, Any]]":
    told: "list[dict[str, Any]]" = json.loads(ask(cli, testbed, "--json", *arguments, code=code).stdout)
    return told


def test_a_hosts_file_is_shown_with_what_each_host_is(cli: Cli, testbed: Testbed) -> None:
    (cli.folder / "hosts.yaml").write_text(
        "defaults: {user: root}\nhosts:\n- node[1-2]\n- {name: last, address: node3, devices: 0-3, spare: true}\n"
    )
    told = reports(cli, testbed, "hosts.yaml", "--host", "localhost")
    assert [report["host"] for report in told] == ["node1", "node2", "last", "localhost"]
    assert [report["hostname"] for report in told] == ["node1", "node2", "node3", os.uname().nodename]
    assert all(report["answers"] and report["problem"] is None for report in told)
    assert all(report["connect_s"] < 60 and report["answer_s"] < 60 for report in told)
    assert told[2]["address"] == f"root@{testbed.hosts[2].address}:22"
    assert (told[2]["device_ids"], told[2]["spare"]) == ([0, 1, 2, 3], True)
    shown = ask(cli, testbed, "hosts.yaml").stdout
    heads = ["host", "address", "state", "python", "devices", "CPUs", "connect", "answer", "role"]
    assert shown.splitlines()[0].split() == heads
    assert shown.splitlines()[-1] == "3 of 3 answer"


def test_a_list_of_hosts_may_come_from_another_program_with_the_mark_of_windows(cli: Cli, testbed: Testbed) -> None:
    done = cli("hosts", "--ssh-config", str(testbed.ssh_config), "-", input="\ufeffnode[1-2] slots=2\r\n")
    assert done.stdout.splitlines()[-1] == "2 of 2 answer"


def test_hosts_that_fail_are_told_in_a_line_each_and_hide_no_others(cli: Cli, testbed: Testbed) -> None:
    testbed.stop_sshd(testbed.hosts[1])
    done = ask(cli, testbed, "--host", "node[1-3]", "--host", "no-such-host.invalid", code=3)
    assert done.stdout.splitlines()[-1] == "2 of 4 answer"
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["node2", "no-such-host.invalid"]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("python: no-such-python", "no Python to start there with no-such-python"),
        ("python: /tmp/old", "/tmp/old is 3.6.8 there"),
        ("setup: exit 9", "no Python"),
    ],
)
def test_a_host_without_a_python_of_use_is_told(cli: Cli, testbed: Testbed, said: str, reason: str) -> None:
    testbed.exec(
        testbed.hosts[0], ["sh", "-c", "printf '#!/bin/sh\\necho python 3.6.8\\n' > /tmp/old; chmod +x /tmp/old"]
    )
    (cli.folder / "hosts.yaml").write_text(f"hosts:\n- name: node1\n  {said}\n")
    (report,) = reports(cli, testbed, "hosts.yaml", code=3)
    assert reason in report["problem"]
    assert report["answers"] is False


def test_setup_lines_and_noisy_start_up_files_are_no_trouble(cli: Cli, testbed: Testbed) -> None:
    host = testbed.hosts[0]
    testbed.exec(host, ["sh", "-c", "echo 'echo noise; echo python 2.7; echo more >&2; printf x' > /root/.bashrc"])
    try:
        (cli.folder / "hosts.yaml").write_text(
            f"hosts:\n- name: node1\n  python: found\n  setup: |\n    echo python 2.6\n"
            f"    mkdir -p /tmp/bin && ln -sf {sys.executable} /tmp/bin/found\n    export PATH=/tmp/bin:$PATH\n"
        )
        (report,) = reports(cli, testbed, "hosts.yaml")
        assert report["python"] == platform.python_version()
    finally:
        testbed.exec(host, ["rm", "/root/.bashrc"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "name a hosts file or --host"),
        (["nowhere.yaml"], "nowhere.yaml: No such file or directory"),
        (["/"], "/: Is a directory"),
        (["/dev/zero"], "/dev/zero: larger than 16 MiB"),
        (["--host", "a", "--host", "a"], "host a is named twice"),
        (["--host", "me@"], "the address is missing"),
        (["--host", "-oProxyCommand=x"], "unknown setting|cannot be that of a host"),
        (["--host", "a", "--ssh-config", "nowhere"], "nowhere: there is no such SSH configuration"),
        (["--host", "a", "--hots"], "No such option"),
    ],
)
def test_input_that_cannot_be_used_is_refused_in_one_line(cli: Cli, arguments: "list[str]", reason: str) -> None:
    done = cli("hosts", *arguments, code=2)
    assert len(done.stderr.splitlines()) == 1
    assert any(part in done.stderr for part in reason.split("|")), done.stderr
    assert done.stdout == ""


def test_ctrl_c_ends_what_is_asked_there(cli: Cli, testbed: Testbed) -> None:
    (cli.folder / "hosts.yaml").write_text("hosts:\n- {name: node1, setup: sleep 100457}\n- node2\n")
    sleeps = ["sh", "-c", "pgrep -f '^sleep 100457' || true"]
    asking = cli.start("hosts", "hosts.yaml", "--ssh-config", str(testbed.ssh_config))
    wait_for(lambda: testbed.exec(testbed.hosts[0], sleeps).stdout)
    interrupted(asking)
    wait_for(lambda: not testbed.exec(testbed.hosts[0], sleeps).stdout)


def test_ctrl_c_waits_for_no_host_that_hangs(cli: Cli, testbed: Testbed) -> None:
    testbed.hang(testbed.hosts[1])
    asking = cli.start("hosts", "--host", "node[1-4]", "--ssh-config", str(testbed.ssh_config))
    time.sleep(2)  # it waits for 10 s for the first word of node2
    assert asking.poll() is None
    interrupted(asking)


def interrupted(asking: "subprocess.Popen[str]") -> None:
    began = time.monotonic()
    asking.send_signal(signal.SIGINT)
    out, err = asking.communicate(timeout=20)
    assert (asking.returncode, out, err.strip()) == (130, "", "ascendrun: interrupted")
    assert time.monotonic() - began < 5


@pytest.fixture
def locked(cli: Cli, testbed: Testbed) -> "list[str]":
    """The words that ask all hosts of the test bed with a key that has the passphrase `secret words`."""
    key = locked_key(cli, testbed)
    (cli.folder / "config").write_text(testbed.ssh_config.read_text().replace(str(testbed.identity_file), str(key)))
    return [ASCENDRUN, "hosts", "--ssh-config", "config", "--host", "node[1-4]"]


def test_a_passphrase_is_asked_for_once_at_the_terminal(cli: Cli, locked: "list[str]") -> None:
    code, said, shows = at_terminal(cli, locked, [b"wrong\n", b"secret words\n"])
    assert code == 0, said
    assert said.count(b"passphrase of") == 2
    assert b"4 of 4 answer" in said
    assert b"secret" not in said
    assert shows


def test_three_wrong_passphrases_are_enough_for_all_hosts(cli: Cli, locked: "list[str]") -> None:
    code, said, _ = at_terminal(cli, locked, [b"wrong\n"] * 3)
    assert code == 3
    assert said.count(b"passphrase of") == 3
    assert said.count(b"wrong passphrase") == 4


def test_ctrl_c_at_a_passphrase_leaves_a_terminal_that_shows_what_is_typed(cli: Cli, locked: "list[str]") -> None:
    code, said, shows = at_terminal(cli, locked, [b"\x03"])
    assert (code, said.count(b"passphrase of")) == (130, 1)
    assert shows
