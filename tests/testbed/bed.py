"""A test bed: network namespaces that behave as hosts of their own. README.md beside this file says what a host has."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import yaml

from tests.testbed.machine import (
    NAMESPACES,
    PATH,
    BedError,
    answers,
    end,
    ip,
    key_pair,
    pids_of,
    processes_of,
    run,
    send,
    started_at,
    state_of,
    unavailable,
    wait_until,
)  # fmt: skip
from tests.testbed.registry import REGISTRY, free_number, is_alive, owners, registry

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
DEVICES = 8
MOST_HOSTS = 250
SSHD_CONFIG = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
PrintMotd no
PidFile /run/sshd.pid
AcceptEnv LANG LC_*
Subsystem sftp /usr/lib/openssh/sftp-server
"""  # all else, MaxSessions and MaxStartups too, is sshd's default


@dataclass(frozen=True)
class Host:
    """A host of a test bed, as the others see it, and what its parts are called on this machine."""

    name: str
    address: str
    device_ips: tuple[str, ...]  # in the order of device_id
    namespace: str  # for `ip netns`
    cable: str  # the end of its network cable that is plugged into the bridge


class Testbed:
    """The hosts of one test bed, its files for those who log in, and the faults it can make."""

    __test__ = False  # pytest takes every Test* for a test

    def __init__(self, number: int, count: int) -> None:
        self.number = number
        self.folder = REGISTRY / str(number)
        self.home = self.folder / "home"  # HOME of a user who may log in everywhere
        self.identity_file = self.home / ".ssh/id_ed25519"
        self.known_hosts = self.home / ".ssh/known_hosts"
        self.ssh_config = self.home / ".ssh/config"
        self.hosts_yaml = self.folder / "hosts.yaml"
        self.shared = self.folder / "shared"  # /srv/shared on all hosts
        self.bridge = f"tb{number}"
        self.gateway = f"10.{number}.255.254"  # this machine's own address among the hosts
        self.hosts = tuple(
            Host(
                name=f"node{i}",
                address=f"10.{number}.0.{i}",
                device_ips=tuple(f"10.{number}.{device + 1}.{i}" for device in range(DEVICES)),
                namespace=f"tb{number}-node{i}",
                cable=f"tb{number}-{i}",
            )
            for i in range(1, count + 1)
        )
        self._broken: set[Host] = set()

    # --- up and down ---

    @classmethod
    def up(cls, count: int, *, standing: bool = False) -> "Testbed":
        """Return a new test bed of *count* hosts whose sshds all answer; those of dead owners are taken away first.

        It belongs to this process, or if *standing* to nobody: then only `down` ends it. Raises BedError.
        """
        if not 1 <= count <= MOST_HOSTS:
            raise BedError(f"a test bed has 1 to {MOST_HOSTS} hosts, not {count}")
        reason = unavailable()
        if reason:
            raise BedError(reason)
        with registry():
            for number, owner in owners().items():
                if not is_alive(owner):
                    cls(number, 0)._remove()
            bed = cls(free_number(), count)
            bed.folder.mkdir()
            run("mount", "-t", "tmpfs", "-o", "mode=755", bed.bridge, str(bed.folder))
            me = None if standing else [os.getpid(), started_at(os.getpid())]
            (bed.folder / "owner.json").write_text(json.dumps({"owner": me, "hosts": count}))
            ip([f"link add {bed.bridge} type bridge forward_delay 0",
                f"address add {bed.gateway}/16 dev {bed.bridge}", f"link set {bed.bridge} up"])  # fmt: skip
        try:
            bed._build()
        except BaseException:
            bed.down()
            raise
        return bed

    @classmethod
    def standing(cls) -> "list[Testbed]":
        """Return the test beds that belong to nobody."""
        with registry():
            mine = [number for number, owner in owners().items() if owner is not None and owner["owner"] is None]
            return [cls(n, json.loads((REGISTRY / str(n) / "owner.json").read_text())["hosts"]) for n in mine]

    def down(self) -> None:
        """End every process of every host, and remove all that `up` has made."""
        with registry():
            self._remove()

    def _remove(self) -> None:
        # By name, not by what `up` had got done: it may have been killed at any point.
        namespaces = [namespace.name for namespace in NAMESPACES.glob(f"{self.bridge}-*")]
        while pids := [pid for pids in processes_of(namespaces).values() for pid in pids]:
            end(pids)
        links = [link.name for link in Path("/sys/class/net").glob(f"{self.bridge}-*")]
        bridge = [self.bridge] if Path("/sys/class/net", self.bridge).exists() else []
        ip([*(f"link delete {link}" for link in links + bridge), *(f"netns delete {name}" for name in namespaces)])
        if self.folder.is_mount():
            run("umount", "--lazy", str(self.folder))
        if self.folder.exists():
            self.folder.rmdir()

    def _build(self) -> None:
        identity, public = key_pair()
        host_keys = {host: key_pair() for host in self.hosts}
        known = "".join(f"{host.name},{host.address} {key[1]}\n" for host, key in host_keys.items())
        for folder in (self.home / ".ssh", self.shared):
            folder.mkdir(parents=True)
        self.identity_file.touch(mode=0o600)
        self.identity_file.write_text(identity)
        self.known_hosts.write_text(known)
        self.ssh_config.write_text(self._ssh_config())
        self.hosts_yaml.write_text(self._hosts_yaml(identity_file=str(self.identity_file)))
        names = "127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in self.hosts)
        for host, (private, host_public) in host_keys.items():
            disk = self._disk(host)
            for part in ("etc/ssh", "usr/local/sbin", "usr/local/Ascend/driver/tools", "var", "root/.ssh",
                           "srv/work", "srv/shared", "tmp",
                           ".overlay/etc", ".overlay/usr/local", ".overlay/var"):  # fmt: skip
                (disk / part).mkdir(parents=True)
            (disk / "tmp").chmod(0o1777)
            (disk / "root").chmod(0o700)
            for path, mode, content in [
                ("etc/hostname", 0o644, f"{host.name}\n"),
                ("etc/hosts", 0o644, names),
                ("etc/hccn.conf", 0o640, self._hccn_conf(host)),
                ("etc/ssh/sshd_config", 0o644, SSHD_CONFIG),
                ("etc/ssh/ssh_host_ed25519_key", 0o600, private),
                ("etc/ssh/ssh_host_ed25519_key.pub", 0o644, f"{host_public}\n"),
                ("usr/local/sbin/npu-smi", 0o755, (HERE / "tools/npu-smi").read_text()),
                ("usr/local/Ascend/driver/tools/hccn_tool", 0o755, (HERE / "tools/hccn_tool").read_text()),
                ("root/.ssh/authorized_keys", 0o600, f"{public}\n"),
                ("root/.ssh/id_ed25519", 0o600, identity),  # each host may log in to the others
                ("root/.ssh/known_hosts", 0o644, known),
                ("root/hosts.yaml", 0o644, self._hosts_yaml()),
            ]:
                (disk / path).write_text(content)
                (disk / path).chmod(mode)
        ip([line for host in self.hosts for line in (
            f"netns add {host.namespace}",
            f"link add {host.cable} type veth peer name eth0 netns {host.namespace}",
            f"link set {host.cable} master {self.bridge} up",
        )])  # fmt: skip
        for host in self.hosts:
            devices = [
                f"address add {address}/16 dev eth0 label eth0:npu{i}" for i, address in enumerate(host.device_ips)
            ]
            ip(["link set lo up", f"address add {host.address}/16 dev eth0", *devices, "link set eth0 up"],
               namespace=host.namespace)  # fmt: skip
        for host in self.hosts:
            self._start(host)
        for host in self.hosts:
            self._wait_for_sshd(host)

    def _disk(self, host: Host) -> Path:
        return self.folder / host.name

    def _ssh_config(self) -> str:
        everywhere = (
            f"Host node*\n  User root\n  IdentityFile {self.identity_file}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.known_hosts}\n  StrictHostKeyChecking yes\n"
        )
        return everywhere + "".join(f"Host {host.name}\n  HostName {host.address}\n" for host in self.hosts)

    def _hosts_yaml(self, **more: str) -> str:
        common = {"user": "root", "python": sys.executable, "work_folder": "/srv/work", **more}
        entries = [{"name": host.name, "address": host.address, **common} for host in self.hosts]
        return yaml.safe_dump({"hosts": entries}, sort_keys=False)

    def _hccn_conf(self, host: Host) -> str:
        return "".join(
            f"address_{i}={address}\nnetmask_{i}=255.255.0.0\nnetdetect_{i}={self.gateway}\n"
            f"gateway_{i}={self.gateway}\nsend_arp_status_{i}=1\n"
            for i, address in enumerate(host.device_ips)
        )

    # --- on a host, without SSH ---

    def inside(self, host: Host, argv: Sequence[str]) -> "list[str]":
        """Return the words that run *argv* on *host* as root's SSH session would, for subprocess. Raises BedError."""
        process_1 = self._process_1(host)
        if process_1 is None:
            raise BedError(f"{host.name} is not running: boot it first")
        clean = ["env", "--ignore-environment", "--chdir=/root", "HOME=/root", f"PATH={PATH}"]
        return ["nsenter", "--target", str(process_1), "--all", "--", *clean, *argv]

    def exec(self, host: Host, argv: Sequence[str], **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run *argv* on *host*; *options* are those of subprocess.run, with `check` and texts as defaults."""
        options = {"check": True, "text": True, "capture_output": True, **options}
        done: "subprocess.CompletedProcess[str]" = subprocess.run(self.inside(host, argv), **options)
        return done

    def npu_state(self, host: Host, *lines: str) -> None:
        """Make npu-smi and hccn_tool of *host* say what *lines* want (see tools/); without lines, that all is well."""
        self._broken.add(host)
        self.exec(host, ["tee", "/etc/npu-state"], input="".join(f"{line}\n" for line in lines))

    def processes(self, host: Host) -> "list[int]":
        """Return the pids, on this machine, of all that runs on *host*."""
        return processes_of([host.namespace])[host.namespace]

    def _process_1(self, host: Host) -> Optional[int]:
        return next((pid for pid in self.processes(host) if pids_of(pid)[1:] == [1]), None)

    # --- faults, and their ends ---

    def crash(self, host: Host) -> None:
        """End all processes of *host* at once. Its kernel lives: peers get resets, and new connections are refused."""
        self._broken.add(host)
        process_1 = self._process_1(host)
        if process_1 is not None:
            end([process_1])  # with it the kernel kills all others
        while left := self.processes(host):
            end(left)

    def power_cut(self, host: Host) -> None:
        """As `crash`, but not a packet leaves *host* any more: peers hear nothing."""
        self.cut(host)
        self.crash(host)

    def boot(self, host: Host) -> None:
        """Start *host* after `crash` or `power_cut`, with the disk it had; return when its sshd answers."""
        if self._process_1(host) is not None:
            raise BedError(f"{host.name} is running")
        self.mend(host)
        self._start(host)
        self._wait_for_sshd(host)

    def stop_sshd(self, host: Host) -> None:
        """End the listening sshd of *host*. Sessions and all else live on."""
        self._broken.add(host)
        self.exec(host, ["bash", "-c", 'kill "$(cat /run/sshd.pid)"'])
        wait_until(lambda: not answers(host.address), f"the sshd of {host.name} to stop")

    def start_sshd(self, host: Host) -> None:
        self.exec(host, ["/usr/sbin/sshd"])
        self._wait_for_sshd(host)

    def hang(self, host: Host) -> None:
        """Stop every process of *host*. Its kernel lives: connections are accepted and nobody ever answers."""
        self._broken.add(host)
        while running := [pid for pid in self.processes(host) if state_of(pid) not in "TZX"]:
            send(signal.SIGSTOP, running)

    def unhang(self, host: Host) -> None:
        send(signal.SIGCONT, self.processes(host))

    def cut(self, host: Host) -> None:
        """Pull the network cable of *host*: what it sends and what is sent to it vanishes."""
        self._broken.add(host)
        ip([f"link set {host.cable} down"])

    def slow(self, host: Host, rate: str) -> None:
        """Let the network cable of *host* carry no more than *rate* each way, such as `10mbit`."""
        self._broken.add(host)
        self._shape(host, "tbf", "rate", rate, "burst", "64kb", "latency", "200ms")

    def mend(self, host: Host) -> None:
        """Undo `cut` and `slow`."""
        ip([f"link set {host.cable} up"])
        self._shape(host, "noqueue")

    def heal(self) -> None:
        """Undo all faults that were made and are not undone."""
        while self._broken:
            host = self._broken.pop()
            self.mend(host)
            self.unhang(host)
            if self._process_1(host) is None:
                self._start(host)
                self._wait_for_sshd(host)
            if not answers(host.address):
                self.start_sshd(host)
            self.exec(host, ["rm", "-f", "/etc/npu-state"])

    def _shape(self, host: Host, *discipline: str) -> None:
        run("tc", "qdisc", "replace", "dev", host.cable, "root", *discipline)
        run("tc", "-netns", host.namespace, "qdisc", "replace", "dev", "eth0", "root", *discipline)

    def _start(self, host: Host) -> None:
        disk = self._disk(host)
        needed = dict.fromkeys([CHECKOUT, Path(sys.prefix), Path(sys.base_prefix)])
        hidden = [str(folder) for folder in needed if folder.parts[1] in ("root", "tmp")]
        with (disk / "console").open("w") as console:
            subprocess.run(
                ["setsid", "--fork", "ip", "netns", "exec", host.namespace,
                 "unshare", "--uts", "--ipc", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child",
                 "env", "--ignore-environment", f"PATH={PATH}",
                 "bash", str(HERE / "boot.sh"), host.name, str(disk), str(self.shared), *hidden],
                env={"PATH": PATH}, stdin=subprocess.DEVNULL, stdout=console, stderr=console, check=True,
            )  # fmt: skip

    def _wait_for_sshd(self, host: Host) -> None:
        def is_up() -> bool:
            if answers(host.address):
                return True
            said = (self._disk(host) / "console").read_text()
            if said and not self.processes(host):
                raise BedError(f"{host.name} did not boot: {said.strip()}")
            return False

        wait_until(is_up, f"the sshd of {host.name} to answer")
