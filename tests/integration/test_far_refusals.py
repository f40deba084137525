"""Launches over many hosts that cannot work: one line, its exit code, and nothing left on any host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import wait_for
from tests.integration.far import BEGINS, Far, nothing_left

FULL = "/srv/full"


def refused(far: Far, hosts: str, *words: str, code: int = 3) -> str:
    """Launch a program that nobody should start; return the one line that says why it was not."""
    program = [] if "--" in words else ["--", *far.program(), "1"]
    done = far.cli("launch", "--hosts", hosts, "--name", "r", *words, *program, code=code)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("ascendrun: ") and "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(far.cli.folder.glob("runs/*")), f"no run is left here: {done.stderr}"
    assert nothing_left(far.bed, far.before) == []
    for host in far.bed.hosts:
        assert far.bed.exec(host, ["ls", "/srv/work"]).stdout == "", "and no run folder there"
    return str(done.stderr.removeprefix("ascendrun: "))


def known_but(far: Far, key: "Callable[[list[str]], str]") -> None:
    """Let the user's known_hosts say of node2 what *key* makes of the lines of all hosts."""
    lines = far.bed.known_hosts.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("node2,")]
    (far.cli.folder / "known_hosts").write_text("\n".join([*kept, key(lines)]) + "\n")
    config = far.bed.ssh_config.read_text().replace(str(far.bed.known_hosts), str(far.cli.folder / "known_hosts"))
    (far.cli.folder / "config").write_text(f"Host *\n  UserKnownHostsFile {far.cli.folder}/known_hosts\n{config}")


def test_an_unknown_host_key(far: Far) -> None:
    known_but(far, lambda lines: "")
    line = refused(far, far.hosts(3), "--ssh-config", "config")
    assert line.startswith("node2: the host key of ") and "--accept-new-host-keys" in line


def test_a_changed_host_key(far: Far) -> None:
    known_but(far, lambda lines: f"{far.bed.hosts[1].address} {lines[0].split(maxsplit=1)[1]}")
    line = refused(far, far.hosts(3), "--ssh-config", "config", "--accept-new-host-keys")
    assert line.startswith("node2: ") and "has changed" in line and "ssh-keygen -R" in line


@pytest.mark.parametrize(
    ("node2", "said"),
    [
        ({"identity_file": "/nowhere/key"}, "node2: refuses root with /nowhere/key (no such file)"),
        ({"address": "no-such-host.invalid"}, "node2: there is no host by the name no-such-host.invalid"),
        ({"port": 23}, "port 23 refuses connections"),
        ({"python": "/nowhere/python3"}, "node2: cannot start /nowhere/python3: "),
        ({"setup": ["exit 9"]}, "node2: the lines of setup: end with exit code 9"),
        ({"work_folder": "/proc/nowhere"}, "node2: cannot keep files of ours in /proc/nowhere/.ascendrun: "),
        ({"address": "node1"}, "node2: is the same machine as node1; name it once"),
    ],
)
def test_a_host_of_which_the_hosts_file_says_what_is_not_so(far: Far, node2: "dict[str, Any]", said: str) -> None:
    assert said in refused(far, far.hosts(3, node2=node2))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--dataset", "/nowhere/data"], 3, "/nowhere/data: no such file or folder"),
        (["--devices", "99"], 2, "--devices 99: this host offers"),
        (["--backend", "ascend"], 3, "node1: has no Ascend device"),
        (["--rank-table", "nowhere.json"], 2, "nowhere.json"),
        (["--rendezvous", "rank-table", "--devices", "9"], 2, "9"),
        (["--", "no-such-program"], 3, "node1: there is no program no-such-program in its PATH"),
        (["--name", "a b"], 2, "--name 'a b': a name is made of letters"),
        (["--run-dir", "/proc/nowhere"], 2, "choose another --run-dir"),
    ],
)
def test_what_no_host_can_do(far: Far, words: "list[str]", code: int, said: str) -> None:
    assert said in refused(far, far.hosts(2), *words, code=code)


def test_a_host_that_is_down(far: Far) -> None:
    far.bed.crash(far.bed.hosts[1])
    hosts = far.hosts(3)
    done = far.cli("launch", "--hosts", hosts, "--", *far.program(), "1", code=3)
    assert done.stderr.startswith("ascendrun: node2: ") and len(done.stderr.splitlines()) == 1
    assert not list(far.cli.folder.glob("runs/*"))


def test_a_python_that_is_too_old(far: Far) -> None:
    python = far.python_in_which("import sys; sys.version_info = (3, 6, 8, 'final', 0)")
    line = refused(far, far.hosts(3, node2={"python": python}))
    assert line == "node2: its Python is 3.6.8, and ours needs 3.9 or later; name one as `python:` in a hosts file\n"


def test_clocks_that_differ(far: Far) -> None:
    python = far.python_in_which("import time; real = time.time; time.time = lambda: real() - 90")
    assert "node2: its clock is 90 s off this machine's" in refused(far, far.hosts(3, node2={"python": python}))


def test_a_mindspore_that_others_have_not(far: Far) -> None:
    (far.cli.folder / "job.yaml").write_text("name: j\nframework: mindspore\ncommand: [sleep]\ndevices: 1\n")
    other = "mkdir -p /tmp/o/mindspore-9.9.9.dist-info && printf 'Name: mindspore\\nVersion: 9.9.9\\n'"
    setup = [f"{other} > /tmp/o/mindspore-9.9.9.dist-info/METADATA", "export PYTHONPATH=/tmp/o"]
    hosts = far.hosts(3, node2={"setup": setup})
    done = far.cli("launch", "job.yaml", "--hosts", hosts, "--name", "r", code=3)
    assert done.stderr.startswith("ascendrun: node2: has mindspore 9.9.9, node1 has 2.")
    assert len(done.stderr.splitlines()) == 1


def test_a_dataset_that_one_host_lacks(far: Far) -> None:
    for number in (0, 2):
        far.bed.exec(far.bed.hosts[number], ["mkdir", "/tmp/data"])
    assert refused(far, far.hosts(3), "--dataset", "/tmp/data") == "node2: /tmp/data: no such file or folder\n"


@pytest.mark.parametrize(("size", "said"), [("64k", "(0 kB are free)"), ("8m", "is full (")])
def test_a_disk_that_is_full(far: Far, size: str, said: str) -> None:
    host = far.bed.hosts[1]
    far.bed.exec(host, ["sh", "-c", f"mkdir {FULL}; mount -t tmpfs -o size={size} full {FULL}"])
    try:
        line = refused(far, far.hosts(3, node2={"work_folder": FULL}))
        assert line.startswith("node2: ") and said in line and FULL in line
        assert far.bed.exec(host, ["find", FULL, "-name", ".supervisor*"]).stdout == "", "no half of it stays"
    finally:
        far.bed.exec(host, ["sh", "-c", f"umount {FULL}; rmdir {FULL}"])


def test_a_folder_that_cannot_be_written(far: Far) -> None:
    host = far.bed.hosts[1]
    far.bed.exec(host, ["sh", "-c", f"mkdir {FULL}; mount -t tmpfs -o ro none {FULL}"])
    try:
        line = refused(far, far.hosts(3, node2={"work_folder": f"{FULL}/runs"}))
        assert line.startswith(f"node2: cannot keep files of ours in {FULL}/runs/.ascendrun: ")
        assert "Read-only file system" in line
    finally:
        far.bed.exec(host, ["sh", "-c", f"umount {FULL}; rmdir {FULL}"])


def test_a_run_of_somebody_else_that_took_the_folder_meanwhile_is_left_alone(far: Far) -> None:
    foreign = "mkdir /srv/work/r && echo foreign > /srv/work/r/host_plan.json"
    python = far.python_in_which(BEGINS.format(does=f"(os.system('{foreign}'), os.mkdir('/srv/work/r'))"))
    done = far.cli("launch", "--hosts", far.hosts(2, node2={"python": python}), "--name", "r", "--", "true", code=3)
    assert done.stderr == "ascendrun: node2: /srv/work/r: File exists\n"
    there = [far.bed.exec(host, ["find", "/srv/work/r", "-type", "f"], check=False) for host in far.bed.hosts[:2]]
    assert [one.stdout for one in there] == ["", "/srv/work/r/host_plan.json\n"]


def test_a_host_that_is_lost_while_the_launch_is_undone_is_named_and_the_run_can_be_stopped(far: Far) -> None:
    # node2 fails a while after node1 has begun, has said so, and its connection has broken.
    python = far.python_in_which(BEGINS.format(does="(os.system('sleep 5'), sys.exit('out of memory'))"))
    words = ["--hosts", far.hosts(2, node2={"python": python}), "--name", "r", "--devices", "1", "--", *far.program()]
    launch = far.cli.start("launch", *words, "1000")
    steps = ["grep", "-rs", "step: 8,", "/srv/work/r"]
    wait_for(lambda: far.bed.exec(far.bed.hosts[0], steps, check=False).stdout)
    far.bed.exec(far.bed.hosts[0], ["pkill", "-f", "^sshd: root"])
    _, said = launch.communicate(timeout=120)
    assert launch.returncode == 3
    assert said == "ascendrun: node2: out of memory; node1 may run on: `ascendrun stop r` ends that\n"
    assert far.cli("stop", "r", timeout=60).stdout == "r: stopped by ascendrun stop\n"


@pytest.mark.parametrize("fault", ["sys.exit('out of memory')", "os.kill(os.getpid(), 9)"])
def test_one_host_that_cannot_begin_ends_the_others_that_have(far: Far, fault: str) -> None:
    # When it is told to begin, the others have been too.
    python = far.python_in_which(BEGINS.format(does=fault))
    line = refused(far, far.hosts(4, node2={"python": python}), "--devices", "2")
    assert line.startswith("node2: ")
    assert "out of memory" in line or "Killed" in line
