"""What is wrong with the devices of a host, their links, and who uses them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.checks.facts import Fault, HostFacts
from orchestrator.findings import Severity
from orchestrator.inventory import spell_ids
from orchestrator.probes import npuqueries
from orchestrator.probes.network import GOOD_HEALTH, Port
from orchestrator.probes.npuinfo import NpuDevice

_HOT_C, _TOO_HOT_C = 85, 100
_FOREIGN_SHARE = 0.2  # of a device's memory, beyond what an idle driver takes (3 to 9%)
_LITTLE_SHARE = 0.05


def ill(host: HostFacts) -> "list[NpuDevice]":
    """Return the devices whose health is not good: worth a second question each."""
    return [device for device in host.info.devices if (device.health or "OK") != "OK"]


def health_words(device: NpuDevice) -> "list[str]":
    """Return the words for `npu-smi` that ask what ails a device."""
    return npuqueries.words("health", device.npu, device.chip)[1:]


def faults_of(host: HostFacts) -> "Iterator[Fault]":
    """Yield what is wrong with the devices of a host; nothing for one that has none and should have none."""
    if host.has_devices:
        yield from _table(host)
        yield from _health(host)
        yield from _missing(host)
        yield from _links(host)
        yield from _processes(host)


def _fault(host: HostFacts, check: str, code: str, bad: bool, problem: str, remedy: str, *commands: str) -> Fault:
    return Fault(host.name, check, code, Severity.ERROR if bad else Severity.WARNING, problem, remedy, commands)


def _table(host: HostFacts) -> "Iterator[Fault]":
    """Yield what is wrong with npu-smi as a whole."""
    npu, info = host.told["npu"], host.info
    if npu["missing"]:
        yield _fault(
            host, "devices", "npu-smi-missing", False, "there is no npu-smi to ask for the devices",
            "install the driver; in a container mount /usr/local/bin/npu-smi and /usr/local/dcmi", "ls /dev/davinci*",
        )  # fmt: skip
    elif npu["code"] is None:
        yield _fault(
            host, "devices", "npu-smi-hangs", True, "npu-smi gives no answer: the driver is stuck",
            "look into the kernel's log; a restart of the host helps most often", "dmesg -T | grep -iE 'davinci|hisi'",
        )  # fmt: skip
    elif info.problem is not None:
        yield _fault(
            host, "devices", "npu-smi-refuses", True, f"npu-smi shows no device: {info.problem}",
            "load the driver, or in a container mount /dev/davinciN, davinci_manager, devmm_svm and hisi_hdc",
            "npu-smi info; ls -l /dev/davinci*; lspci -d 19e5:",
        )  # fmt: skip
    elif not info.understood:
        words = next(iter(info.unread), next(iter(info.raw.splitlines()), f"nothing, with exit code {npu['code']:.0f}"))
        yield _fault(
            host, "devices", "npu-smi-not-understood", False,
            f"what npu-smi says is not understood, so its devices were not judged: {' '.join(words.split())[:80]}",
            "read it yourself; a newer driver may need a newer ascendrun", "npu-smi info",
        )  # fmt: skip
    if info.incomplete_driver:
        yield _fault(
            host, "devices", "driver-incomplete", False, "the driver may not be completely installed, npu-smi says",
            "install the driver package again", "cat /etc/ascend_install.info",
        )  # fmt: skip


def _health(host: HostFacts) -> "Iterator[Fault]":
    answers = [answer["text"] for answer in host.closer.get("answers", ())]
    for device in host.info.devices:
        name = _name(device)
        if device in ill(host):
            index = ill(host).index(device)
            told = npuqueries.parse_health(answers[index]) if index < len(answers) else []
            codes = " ".join(code for one in told for code in one.error_codes)
            said = "; ".join(message for one in told for message in one.messages)
            why = "".join([f", codes {codes}" * bool(codes), f" ({said})" * bool(said)])
            yield _fault(
                host, "devices", "device-health", device.health != "Warning",
                f"{name}: health is {device.health}{why}",
                "leave it out of runs (`devices:` in the hosts file), and reset it when nothing uses it",
                f"npu-smi info -t health -i {device.npu} -c {device.chip}",
                f"npu-smi set -t reset -i {device.npu} -c {device.chip}",
            )  # fmt: skip
        if device.temp_c is not None and device.temp_c >= _HOT_C:
            yield _fault(
                host, "devices", "device-hot", device.temp_c >= _TOO_HOT_C, f"{name}: {device.temp_c} °C",
                "see to fans and air; a device this hot runs slower", f"npu-smi info -t temp -i {device.npu}",
            )  # fmt: skip


def _missing(host: HostFacts) -> "Iterator[Fault]":
    """Yield the devices that others of this host's sources know, and its table does not show."""
    shown = {device.device_id for device in host.info.devices}
    if not shown or host.info.truncated or not host.info.understood:
        return
    for source, ids in (
        ("the hosts file", host.expected_ids or ()),
        ("/dev", host.told["davinci"]),
        ("/etc/hccn.conf", sorted(host.configured)),
    ):
        missing = [number for number in ids if number not in shown and host.matters(number)]
        if missing:
            yield _fault(
                host, "devices", "device-missing", True,
                f"npu-smi does not show device {spell_ids(missing)}, which {source} has: a card may have dropped",
                "see whether the bus still has it; restart the host, or have the card replaced",
                "lspci -d 19e5:; dmesg -T | grep -i pcie",
            )  # fmt: skip
            return


def _links(host: HostFacts) -> "Iterator[Fault]":
    answers = host.told["hccn"]
    shown = {device.device_id for device in host.info.devices}
    if answers and answers[0]["code"] is None:
        if not answers[0]["missing"]:
            yield _fault(
                host, "links", "hccn-tool-hangs", True, "hccn_tool gives no answer: the driver is stuck",
                "look into the kernel's log; a restart of the host helps most often",
                "dmesg -T | grep -iE 'davinci|hisi|hns'",
            )  # fmt: skip
        return
    if any("permission denied" in answer["text"] for answer in answers):
        yield _fault(
            host, "links", "hccn-tool-not-for-us", False,
            f"{host.told['user']} may not ask hccn_tool, so links and addresses were not looked at",
            "ask as root: `user: root` in the hosts file",
        )  # fmt: skip
        return
    for device, port in sorted(host.ports.items()):
        if shown and device not in shown:
            continue  # a device that is not there has no link
        yield from _port(host, device, port)


def _port(host: HostFacts, device: int, port: Port) -> "Iterator[Fault]":
    tool = f"hccn_tool -i {device}"
    if port.link == "DOWN":
        yield _fault(
            host, "links", "link-down", True, f"device {device}: its link is down",
            "see to cable, optical module and switch port; then apply its settings again",
            f"{tool} -optical -g", f"{tool} -link_stat -g", f"{tool} -cfg recovery",
        )  # fmt: skip
    elif port.net_health is not None and port.net_health not in GOOD_HEALTH:
        yield _fault(
            host, "links", "net-health", True, f"device {device}: its net health is {port.net_health}",
            "see whether its address, netmask and gateway fit the network, and what it pings answers",
            f"{tool} -netdetect -g", f"{tool} -ip -g", f"{tool} -gateway -g",
        )  # fmt: skip
    configured = host.configured.get(device)
    wanted = host.expected_addresses.get(device) or (configured.address if configured else None)
    if port.address is None and wanted is not None:
        yield _fault(
            host, "links", "address-missing", True, f"device {device}: it has no address, and should have {wanted}",
            "apply the settings of /etc/hccn.conf again", f"{tool} -cfg recovery",
        )  # fmt: skip
    elif port.address is not None and wanted is not None and port.address != wanted:
        where = "the hosts file" if device in host.expected_addresses else "/etc/hccn.conf"
        yield _fault(
            host, "links", "address-differs", True,
            f"device {device}: its address is {port.address}, and {where} has {wanted}",
            "apply the settings of /etc/hccn.conf again, or correct what is written", f"{tool} -cfg recovery",
        )  # fmt: skip


def _processes(host: HostFacts) -> "Iterator[Fault]":
    info, owners = host.info, host.closer.get("owners", {})
    left = {one[0] for one in host.told["leftovers"]}
    for device in info.devices:
        users = [one for one in info.processes if (one.npu, one.chip) == (device.npu, device.chip)]
        total = device.hbm_total_mb or device.mem_total_mb or 0
        used = device.hbm_used_mb if device.hbm_total_mb else device.mem_used_mb
        for one in users:
            owner = owners.get(str(one.pid))
            if one.pid in left or (owner is not None and owner["run"] is not None and _is_idle(one.mem_mb, total)):
                continue  # told of as a leftover
            asked = "owners" in host.closer
            who = f" of {owner['user']}" if owner is not None else ", of another container or user" * asked
            run = f", run {owner['run']}" if owner is not None and owner["run"] else ""
            size = f", {one.mem_mb} MB" if one.mem_mb is not None else ""
            yield _fault(
                host, "processes", "device-in-use", not _is_idle(one.mem_mb, total),
                f"{_name(device)} is used by pid {one.pid}{who}{run}: {one.name or 'no name'}{size}",
                "wait for it, end it if it is yours, or leave the device out",
                f"ps -o user,pid,etime,args -p {one.pid}",
            )  # fmt: skip
        if not users and total and used is not None and device.hbm_total_mb and used > _FOREIGN_SHARE * total:
            yield _fault(
                host, "processes", "memory-held", False,
                f"{_name(device)}: {used} of {total} MB are taken, and no process of this host is shown",
                "look on the machine itself, or in its other containers", "npu-smi info",
            )  # fmt: skip


def _is_idle(used_mb: "int | None", total_mb: int) -> bool:
    return used_mb is not None and total_mb > 0 and used_mb < _LITTLE_SHARE * total_mb


def _name(device: NpuDevice) -> str:
    return f"device {device.device_id}"


def pids(host: HostFacts) -> "Sequence[int]":
    return [one.pid for one in host.info.processes]
