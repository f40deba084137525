"""What a host tells of itself when `ascendrun doctor` asks: facts and the words of tools. Nothing is judged here.

Runs on the hosts, from the archive that `bundle.supervisor_archive` makes. Standard library only.
"""

from __future__ import annotations

import glob
import json
import os
import re
import resource
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from orchestrator.supervisor import abandoned, machine, serving
from orchestrator.supervisor.tools import SILENT, run_tool

_FILES = (
    "/etc/hccn.conf",
    "/etc/ascend_install.info",
    "/usr/local/Ascend/driver/version.info",
    "/usr/local/Ascend/firmware/version.info",
)
# The first that is there is CANN's, after what the environment names.
_CANN = (
    "/usr/local/Ascend/cann/*-linux/ascend_toolkit_install.info",
    "/usr/local/Ascend/ascend-toolkit/latest/*-linux/ascend_toolkit_install.info",
    "/usr/local/Ascend/nnae/latest/ascend_nnae_install.info",
)
_MOST_LETTERS = 1 << 18  # of a file
_PACKAGE = re.compile(r"(mindspore|mindspore[_-]ascend|torch[_-]npu)-([0-9][^-]*)\.(?:dist|egg)-info", re.IGNORECASE)
_CONFIGURED = re.compile(r"^\s*(?:IPv6)?address_([0-9]{1,4})\s*=", re.MULTILINE | re.IGNORECASE)
_BUSY_TRIES, _BUSY_S = 25, 0.2  # hccn_tool serves one at a time
_DIAL_S = 4.0
_PINGS_S = 10.0  # a ping that is not answered takes three
_SIOCGIFADDR, _SIOCGIFMTU = 0x8915, 0x8921
_RUN_ID = b"ASCENDRUN_RUN_ID="


def serve() -> None:
    """Answer two lines of standard input: what is asked of this host, and what is asked of it and its peers."""
    listener = Listener(0)
    asked = json.loads(sys.stdin.buffer.readline())
    if asked.get("port"):
        listener.close()
        listener = Listener(int(asked["port"]))
    facts = examine(asked)
    facts.update(port=listener.port, port_problem=listener.problem, time=time.time())
    serving.say(json.dumps(facts) + "\n")
    told = sys.stdin.buffer.readline()
    if told:
        read_at = time.time()
        serving.say(json.dumps({**look_closer(json.loads(told)), "time": read_at}) + "\n")
        sys.stdin.buffer.readline()  # the others may still knock: it ends when all have


class Listener:
    """Takes connections on a port of all addresses, and closes them at once. *port* 0: any."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.problem: Optional[str] = None  # why nobody can knock there
        self._socket = socket.socket()
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(("", port))
            self._socket.listen(256)
            self.port = self._socket.getsockname()[1]
        except OSError as exc:
            self.problem = exc.strerror or str(exc)
            return
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        try:
            while True:
                self._socket.accept()[0].close()
        except OSError:
            return  # closed

    def close(self) -> None:
        self._socket.close()


def examine(asked: "Mapping[str, Any]") -> "dict[str, Any]":
    """Return what this host is and has.

    *asked*: folder (where runs would lie), devices (ids that the hosts file names), timeout_s (of a tool), program.
    """
    timeout_s = float(asked["timeout_s"])
    return {
        **_host(Path(os.path.expanduser(asked["folder"]))),
        **_devices(asked.get("devices") or (), timeout_s),
        "packages": _packages(),
        "program": asked.get("program"),
        "program_there": asked.get("program") is None or shutil.which(asked["program"]) is not None,
        "leftovers": [list(one) for one in abandoned.find()],
    }


def glance(folder: Path, *, devices: "Optional[Sequence[int]]", timeout_s: float) -> "dict[str, Any]":
    """Return what `examine` does, of what a launch wants to know at once: no program is run for a host without devices.

    *devices*: those that matter, () for all; None: the run uses none.
    """
    return {
        **_host(folder),
        **(_NO_DEVICES if devices is None or not machine.ascend_device_ids() else _devices(devices, timeout_s)),
        "packages": {},
        "program": None,
        "program_there": True,
        "leftovers": [],
        "port": 0,
        "port_problem": None,
        "time": time.time(),
    }


def _host(folder: Path) -> "dict[str, Any]":
    return {
        "hostname": socket.gethostname(),
        "user": _user_name(os.getuid()),
        "address": _dialled_address(),
        "python": "{}.{}.{}".format(*sys.version_info),
        "kernel": os.uname().release,
        "arch": os.uname().machine,
        "cpus": len(os.sched_getaffinity(0)),
        "numa_nodes": len(glob.glob("/sys/devices/system/node/node[0-9]*")),
        "load": os.getloadavg()[0],
        "memory": _memory(),
        "disk": _disk(folder),
        "shm": _disk(Path("/dev/shm")),
        "limits": {"nofile": _soft(resource.RLIMIT_NOFILE), "nproc": _soft(resource.RLIMIT_NPROC)},
        "interfaces": _interfaces(),
    }


_NO_DEVICES: "dict[str, Any]" = {
    "files": {}, "cann": None, "davinci": [], "asked_ids": [], "npu": SILENT, "hccn": [],
}  # fmt: skip


def _devices(named: "Sequence[int]", timeout_s: float) -> "dict[str, Any]":
    """Return what the tools and files of Ascend say of the devices *named*, or else of all."""
    files = {path: text for path in _FILES if (text := _read(path)) is not None}
    davinci = machine.ascend_device_ids()
    ids = sorted(named or davinci or set(map(int, _CONFIGURED.findall(files.get("/etc/hccn.conf", "")))))
    answers: "dict[str, Any]" = {}
    asking = threading.Thread(target=lambda: answers.update(npu=run_tool("npu-smi", ["info"], timeout_s)))
    asking.start()
    hccn = _ask_hccn(ids, timeout_s)
    asking.join()
    return {"files": files, "cann": _cann(), "davinci": davinci, "asked_ids": ids, "hccn": hccn, **answers}


def look_closer(asked: "Mapping[str, Any]") -> "dict[str, Any]":
    """Return what became of dialling *peers* ([name, address, port]), who owns *pids*, and what *queries* are answered.

    *queries*: the words of `npu-smi`; *pings*: [device, its peer's host, device and address].
    """
    peers: "Sequence[Sequence[Any]]" = asked["peers"]
    reached: "dict[str, Optional[str]]" = {}
    threads = [threading.Thread(target=_dial, args=(*peer, reached), daemon=True) for peer in peers]
    for thread in threads:
        thread.start()
    timeout_s = float(asked["timeout_s"])
    answers = [run_tool("npu-smi", words, timeout_s) for words in asked["queries"]]
    pings = _ping(asked["pings"], timeout_s)
    owners = {str(pid): owner for pid in asked["pids"] if (owner := _owner(int(pid))) is not None}
    for thread in threads:
        thread.join()
    return {"reached": reached, "owners": owners, "answers": answers, "pings": pings}


def _ask_hccn(ids: "Iterable[int]", timeout_s: float) -> "list[dict[str, Any]]":
    """Return the answers of hccn_tool: its health, address and TLS; the link only where the health is not good.

    It serves one call at a time, so each that can be spared is.
    """
    answers: "list[dict[str, Any]]" = []

    def ask(device: int, *query: str) -> "dict[str, Any]":
        answer = _hccn_tool(["-i", str(device), *query, "-g"], timeout_s)
        answers.append({"device": device, "query": query[0], **answer})
        return answer

    for device in ids:
        health = ask(device, "-net_health")
        if health["code"] is None or "permission denied" in health["text"]:
            break  # not there, not for us, or stuck: so would all others be
        if "Success" not in health["text"]:
            ask(device, "-link")
        if "ipaddr" not in ask(device, "-ip")["text"]:
            ask(device, "-ip", "-inet6")
        ask(device, "-tls")
    return answers


def _hccn_tool(words: "Sequence[str]", timeout_s: float) -> "dict[str, Any]":
    """Return what hccn_tool answers once it is not busy: it serves one call at a time."""
    for _ in range(_BUSY_TRIES):
        answer = run_tool("hccn_tool", words, timeout_s)
        if "hccn_tool is busy" not in answer["text"]:
            break
        time.sleep(_BUSY_S)  # its owner tells nobody when it is done
    return answer


def _ping(wanted: "Iterable[Sequence[Any]]", timeout_s: float) -> "list[dict[str, Any]]":
    """Return the answers of hccn_tool to pings; those that are left when they have taken too long are not asked for."""
    answers = []
    deadline = time.monotonic() + _PINGS_S
    for device, peer, peer_device, address in wanted:
        answer = _hccn_tool(["-i", str(device), "-ping", "-g", "address", str(address)], timeout_s)
        answers.append({"device": device, "peer": peer, "peer_device": peer_device, **answer})
        if answer["code"] is None or time.monotonic() > deadline:
            break
    return answers


def _read(path: str) -> "Optional[str]":
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MOST_LETTERS)
    except OSError:
        return None


def _cann() -> "Optional[str]":
    """Return what CANN's own file says, of the toolkit that the environment names or else of the one installed."""
    named = os.environ.get("ASCEND_HOME_PATH") or os.environ.get("ASCEND_TOOLKIT_HOME")
    patterns = ([f"{glob.escape(named)}/*-linux/ascend_toolkit_install.info"] if named else []) + list(_CANN)
    found = (path for pattern in patterns for path in sorted(glob.glob(pattern)))
    return next((text for path in found if (text := _read(path)) is not None), None)


def _packages() -> "dict[str, str]":
    """Return the versions of what trains, by what is installed and not by importing it."""
    machine.find_packages()
    found: "dict[str, str]" = {}
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for match in filter(None, map(_PACKAGE.fullmatch, names)):
            found.setdefault(match.group(1).lower().replace("_", "-"), match.group(2))
    return found


def _memory() -> "dict[str, int]":
    """Return the bytes of memory, in all and to be had."""
    told = dict(re.findall(r"(\w+):\s+(\d+) kB", _read("/proc/meminfo") or ""))
    return {"total": int(told.get("MemTotal", 0)) << 10, "available": int(told.get("MemAvailable", 0)) << 10}


def _disk(folder: Path) -> "Optional[dict[str, Any]]":
    """Return what the file system of *folder*, or of what is there of it, has left; None where there is none."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        told = os.statvfs(folder)
    except OSError:
        return None
    return {
        "folder": str(folder),
        "writable": os.access(folder, os.W_OK | os.X_OK),
        "total": told.f_blocks * told.f_frsize,
        "free": told.f_bavail * told.f_frsize,
        "inodes": told.f_files,
        "free_inodes": told.f_favail,
    }


def _soft(limit: int) -> "Optional[int]":
    soft = resource.getrlimit(limit)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _interfaces() -> "dict[str, dict[str, Any]]":
    """Return the network interfaces besides loopback, by name."""
    import fcntl
    import struct

    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:

        def ask(name: str, request: int) -> Optional[bytes]:
            try:
                return fcntl.ioctl(asking, request, struct.pack("256s", os.fsencode(name[:15])))
            except OSError:
                return None  # it has none

        for index_name in socket.if_nameindex():
            name = index_name[1]
            if name == "lo":
                continue
            address, mtu = ask(name, _SIOCGIFADDR), ask(name, _SIOCGIFMTU)
            found[name] = {
                "state": (_read(f"/sys/class/net/{name}/operstate") or "unknown").strip(),
                "address": socket.inet_ntoa(address[20:24]) if address else None,
                "mtu": struct.unpack("16xi", mtu[:20])[0] if mtu else None,
            }
    return found


def _dialled_address() -> "Optional[str]":
    words = os.environ.get("SSH_CONNECTION", "").split()
    return words[2] if len(words) == 4 else None


def _dial(name: str, address: str, port: int, reached: "dict[str, Optional[str]]") -> None:
    try:
        socket.create_connection((address, port), _DIAL_S).close()
        reached[name] = None
    except OSError as exc:
        reached[name] = exc.strerror or str(exc) or type(exc).__name__


def _owner(pid: int) -> "Optional[dict[str, Any]]":
    """Return who runs a process, and of which run it is; None where there is none, as in another container."""
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read(4096).replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return None
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            ours = next((one for one in file.read(1 << 20).split(b"\0") if one.startswith(_RUN_ID)), b"")
    except OSError:
        ours = b""  # another user's
    return {"user": _user_name(uid), "command": command, "run": ours[len(_RUN_ID) :].decode("utf-8", "replace") or None}


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
