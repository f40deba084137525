"""The health of this host and its devices while ranks run: samples now and then, their series, and what worsened.

Tools of the driver take seconds, and for ever where it is stuck. A child asks them, and nobody waits for it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from contextlib import suppress
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, NoReturn, Optional, Set

from orchestrator.supervisor import events
from orchestrator.supervisor.health import Health
from orchestrator.supervisor.hostplan import HostPlan
from orchestrator.supervisor.journal import Journal
from orchestrator.supervisor.linux import close_from, die_with_parent, set_title
from orchestrator.supervisor.process import Identity, send_signal
from orchestrator.supervisor.rundir import RunDir

EVERY_S = 30.0
_MOST_CPU = 0.01  # of a core: where the tools take more, and nobody said how often, it is looked less often
_LOOK_S = 30.0  # a child that takes longer is ended
_LAST_LOOK_S = 5.0  # what a run that is over waits for, to know what its failed rank's device is like
_AGE_PER_LINE = 1000  # the series of a month is a few thousand lines


class _Look(NamedTuple):
    """A child at work, in a process group of its own."""

    child: Optional[Identity]
    pipe: int
    begun: float  # monotonic
    closely: int  # how many devices it looks at so


class Vitals:
    """Looks at the devices of this host's ranks; a host without devices is asked for its memory alone."""

    def __init__(self, run_dir: RunDir, plan: HostPlan, journal: Journal) -> None:
        self._ranks = {one.device_id: one.rank for one in plan.ranks if one.device_id is not None}
        self._every_s = EVERY_S if plan.health_every_s is None else plan.health_every_s
        self._is_sparing = plan.health_every_s is None
        self._run_dir = run_dir
        self._journal = journal
        self._run_id = plan.run_id
        self._look: Optional[_Look] = None
        self._said = b""
        self._wanted: Set[int] = set(self._ranks)  # to be looked at closely next
        self._turn = 0
        self._begun = self._next_line = time.monotonic()
        # A host without devices has nothing that is compared with its beginning.
        self._next_look = self._begun + (0.0 if self._ranks else self._every_s)
        self._last_look_until: Optional[float] = None
        self._health = Health(links_matter=plan.ranks_elsewhere)
        self._restore()

    def _restore(self) -> None:
        """Go on where a supervisor before us was: figures are compared with the first ones of the run."""
        past = [event for event in self._journal.past if event.kind in (events.HEALTH, events.HEALTH_OVER)]
        try:
            with self._run_dir.health.open("rb") as file:
                first = json.loads(file.readline())
            self._health.look(first if isinstance(first, dict) else {})
        except (OSError, ValueError, RecursionError):
            pass  # none was written yet, or not whole: the next one is the first
        for event in past:
            key = str(event.data.get("what")), event.data.get("device")
            self._health.restore(key, int(event.data.get("level", 0)))

    # ── looking ────────────────────────────────────────────────────────────────────────────────────

    def tick(self) -> None:
        """Take in what there is; begin to look when it is time."""
        if not self._every_s:
            return
        self._collect()
        if self._look is None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self._every_s
            if self._ranks:
                self._begin(self._closely())
            else:
                self._take({})

    def rank_failed(self, rank: int) -> None:
        """Look at the device of a rank that failed at once: nothing may have shown before."""
        devices = [device for device, of in self._ranks.items() if of == rank]
        if self._every_s and devices and self._last_look_until is None:
            self._last_look_until = time.monotonic() + _LAST_LOOK_S
            self._wanted.update(devices)
            self._next_look = 0.0
            self.tick()

    def is_looking(self) -> bool:
        """Tell whether the look at a failed rank's device is still worth waiting for."""
        if self._last_look_until is None or time.monotonic() >= self._last_look_until:
            return False
        self.tick()
        return self._look is not None

    def close(self) -> None:
        self._end_child()

    def _closely(self) -> List[int]:
        """Return the devices to look at closely: those wanted, else one after the other."""
        devices = sorted(self._wanted) or [sorted(self._ranks)[self._turn % len(self._ranks)]]
        self._turn += not self._wanted
        self._wanted.clear()
        return devices

    def _begin(self, closely: List[int]) -> None:
        # 40 ms that hosts without devices need not spend, and that each child would.
        from orchestrator.supervisor.asking import look

        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            pid = os.fork()
        except OSError:  # no process is left for this user: later there may be
            os.close(read)
            os.close(write)
            return
        if pid == 0:
            _ask(lambda: look(self._ranks, closely), write, self._run_id)
        os.close(write)
        with suppress(OSError):
            os.setpgid(pid, pid)  # whoever of the two is first
        self._look, self._said = _Look(Identity.of(pid), read, time.monotonic(), len(closely)), b""

    def _collect(self) -> None:
        """Take in what a child has said, once it is through or out of time."""
        look = self._look
        if look is None:
            return
        try:
            while block := os.read(look.pipe, 65536):
                self._said += block
        except BlockingIOError:
            if time.monotonic() < look.begun + _LOOK_S:
                return
            self._said = json.dumps({"problem": f"npu-smi gives no answer in {_LOOK_S:.0f} s"}).encode()
        said = self._said
        self._end_child()
        try:
            sample = json.loads(said)
        except ValueError:
            return  # it was killed
        if self._is_sparing and self._last_look_until is None:
            cpu_s = sample.get("cpu_s", 0.0) / look.closely  # the first one looks closely at all, once
            self._next_look = max(self._next_look, look.begun + cpu_s / _MOST_CPU)
        self._take(sample)

    def _end_child(self) -> None:
        if self._look is not None:
            if self._look.child is not None and self._look.child.is_alive():
                send_signal(self._look.child.pid, signal.SIGKILL, group=True)  # and the tool that it waits for
            os.close(self._look.pipe)
            self._look = None

    # ── telling ────────────────────────────────────────────────────────────────────────────────────

    def _take(self, sample: Dict[str, Any]) -> None:
        memory = _memory()
        if memory is not None:
            sample["memory"] = memory
        changes = self._health.look(sample)
        told = sample.get("devices", {})
        for change in changes:
            figures = told.get(str(change.device), {})
            data = {"what": change.what, "device": change.device, "level": change.level, "now": change.now}
            if change.severity is None:
                self._tell(events.HEALTH_OVER, data, change.device)
                continue
            data.update(severity=change.severity, before=change.before)
            data.update({"codes": figures["codes"]} if change.what == "health" and figures.get("codes") else {})
            self._tell(events.HEALTH, data, change.device)
        now = time.monotonic()
        if changes or now >= self._next_line:
            self._next_line = now + (now - self._begun) / _AGE_PER_LINE
            self._write(sample)

    def _tell(self, kind: str, data: Mapping[str, Any], device: Optional[int]) -> None:
        clean = {name: value for name, value in data.items() if value is not None}
        self._journal.append(kind, clean, rank=None if device is None else self._ranks.get(device))

    def _write(self, sample: Mapping[str, Any]) -> None:
        line = json.dumps({"at": round(time.time(), 3), "mono": round(time.monotonic(), 3), **sample}) + "\n"
        with suppress(OSError), self._run_dir.health.open("a", encoding="ascii") as file:
            file.write(line)  # a full disk takes none, and is told of as such


def _memory() -> Optional[Dict[str, int]]:
    """Return the bytes of memory of this host, in all and to be had."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            told = {line.partition(":")[0]: int(line.split()[1]) << 10 for line in file if line.endswith("kB\n")}
        return {"total_bytes": told["MemTotal"], "available_bytes": told["MemAvailable"]}
    except (OSError, ValueError, LookupError):
        return None


def _ask(look: Callable[[], Mapping[str, Any]], pipe: int, run_id: str) -> NoReturn:
    """Be the child: say into *pipe* what *look* gives."""
    try:
        os.setpgid(0, 0)
        die_with_parent()
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        close_from(3, keep=(pipe,))
        os.nice(5)
        set_title(f"ascendrun: health of {run_id}")
        os.set_blocking(pipe, True)
        said = look()
        cpu_s = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        os.write(pipe, json.dumps({**said, "cpu_s": round(cpu_s, 3)}).encode())
        os._exit(0)
    except BaseException as exc:  # nothing may escape into the supervisor's code in this fork
        os.write(2, f"health: {exc!r}\n".encode())
        os._exit(1)
