"""Where each rank of this host is: its Python and native stack, and what the kernel says of it.

py-spy reads a stack from outside and leaves the rank alone; where a host has none, or may not use it, Python's own
faulthandler writes the stack into the rank's log when we abort it, which is the end of the rank. Nothing here waits:
`begin` starts the readers, `done` tells when they are through or out of time.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Set, Tuple

from orchestrator.supervisor.hostplan import ProcessPlan
from orchestrator.supervisor.process import Identity, read_stat, send_signal
from orchestrator.supervisor.progress import open_regular
from orchestrator.supervisor.rundir import RunDir

PY_SPY, FAULTHANDLER = "py-spy", "faulthandler"
_LIMIT_S = 8.0  # for all readers; native symbols of a large program take a second or two
_FRAMES_TOLD = 8
_MOST_BYTES = 1 << 18
# Functions in which a rank waits for its peers. Sources: MindSpore's CPU collectives (CollectiveOpsImpl), HCCL's
# interface (HcclAllReduce, hcom_all_reduce), NCCL's and Gloo's names for the same.
_COLLECTIVE = re.compile(
    r"all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|\bbroadcast|barrier|collective_?(?:wait|ops)"
    r"|\bhccl|\bhcom_|\bnccl|\bgloo::",
    re.I,
)
# Functions that run a whole graph: from the Python side alone there is no telling what of it runs.
_ENGINE = re.compile(r"_exec_pip|_graph_executor|GraphScheduler::|aclrtSynchronize|SyncStream|SyncDevice")
_IN_FRAMEWORK = re.compile(r"\((?:.*/)?(?:mindspore|torch)/")
_SHELLS = (b"sh", b"bash", b"dash", b"timeout", b"numactl", b"taskset", b"time", b"env")
_FRAME = re.compile(r"^ {4}(\S.*)$")
_FAULT_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$')


class _Reader(NamedTuple):
    pid: int
    identity: Optional[Identity]


class Stacks:
    """Takes the stacks of ranks, once at a time."""

    def __init__(self, run_dir: RunDir, plans: Mapping[int, ProcessPlan]) -> None:
        self._run_dir = run_dir
        self._plans = plans
        self._facts: Dict[int, Dict[str, Any]] = {}
        self._readers: List[_Reader] = []
        self._deadline = 0.0

    def begin(self, ranks: Mapping[int, Identity], busy: Mapping[int, Optional[bool]]) -> None:
        """Note what the kernel says of *ranks*, and start a reader for each."""
        self._deadline = time.monotonic() + _LIMIT_S
        for rank, identity in ranks.items():
            pid = _python_below(identity.pid)
            facts = kernel_facts(pid)
            self._facts[rank] = {**facts, "busy": busy.get(rank)}
            plan = self._plans[rank]
            path = self._run_dir.stack(plan.folder)
            text = "".join(f"{name}: {value}\n" for name, value in self._facts[rank].items())
            try:
                path.write_text(f"rank {rank}, pid {pid}\n{text}\n", encoding="utf-8")
            except OSError:
                continue  # a full disk: what the kernel says is told without a file
            self._facts[rank]["file"] = os.path.relpath(path, self._run_dir.root)
            program = find_py_spy(plan)
            if program is not None:
                # A stopped process cannot be stopped once more for a look: it is read as it lies, without native ones.
                how = ["--nonblocking"] if facts["state"] == "T" else ["--native"]
                self._start([program, "dump", *how, "--pid", str(pid)], path)

    def done(self) -> bool:
        """Tell whether all readers are through; those that are out of time are ended."""
        self._readers = [one for one in self._readers if one.identity is not None and one.identity.is_alive()]
        if self._readers and time.monotonic() >= self._deadline:
            for one in self._readers:
                send_signal(one.pid, signal.SIGKILL)
            self._readers = []
        return not self._readers

    def taken(self) -> Dict[int, Dict[str, Any]]:
        """Return what is known of each rank now, as the event `stacks` tells it, and forget it."""
        found, self._facts = self._facts, {}
        for facts in found.values():
            if "file" in facts:
                facts.update(_read_py_spy(self._run_dir.root / facts["file"]))
        return found

    def from_log(self, rank: int) -> Optional[Dict[str, Any]]:
        """Return the stack that faulthandler wrote into the log of *rank* when it was aborted; keep it in its file."""
        plan = self._plans[rank]
        text = _last_text(self._run_dir.log(plan.folder, plan.log))
        begin = text.rfind("Fatal Python error: Aborted")
        if begin < 0:
            return None
        frames = _faulthandler_frames(text[begin:])
        path = self._run_dir.stack(plan.folder)
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(text[begin:])
        except OSError:
            pass  # it stays in the log
        return {"by": FAULTHANDLER, "frames": frames[:_FRAMES_TOLD], "in_collective": in_collective(frames)}

    def _start(self, argv: List[str], output: Path) -> None:
        try:
            pid = os.posix_spawn(
                argv[0],
                argv,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.fspath(output), os.O_WRONLY | os.O_APPEND, 0),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsigmask=(),
                setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
            )
        except OSError:
            return  # no process left for this user: then it stays with what the kernel says
        self._readers.append(_Reader(pid, Identity.of(pid)))


def abort(identity: Identity) -> None:
    """Have Python's faulthandler write the stacks of a process into its log. It ends, and leaves no core file."""
    pid = _python_below(identity.pid)
    try:
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError):
        pass  # not ours to limit
    send_signal(pid, signal.SIGABRT)
    send_signal(pid, signal.SIGCONT)


def find_py_spy(plan: ProcessPlan) -> Optional[str]:
    """Return where py-spy is: beside the rank's Python or ours, or in PATH; None where it is not."""
    beside = [os.path.dirname(program) for program in (plan.argv[0], sys.executable or "") if os.path.isabs(program)]
    path = plan.environment.get("PATH") or os.environ.get("PATH", os.defpath)
    return shutil.which("py-spy", path=os.pathsep.join([*beside, path]))


def kernel_facts(pid: int) -> Dict[str, Any]:
    """Return what /proc tells of a process: `state`, `wchan` (where in the kernel it waits), `threads`."""
    stat = read_stat(pid)
    return {"state": stat.state if stat else None, "wchan": _word(pid, "wchan"), "threads": _threads(pid)}


def in_collective(frames: List[str]) -> Optional[bool]:
    """Tell whether a stack waits for peers; None where the part of it that is known does not say."""
    if not frames:
        return None
    if any(_COLLECTIVE.search(frame) for frame in frames):
        return True
    return None if _IN_FRAMEWORK.search(frames[0]) or any(_ENGINE.search(frame) for frame in frames) else False


def _python_below(pid: int) -> int:
    """Return the process that is the rank: below a shell or a wrapper its only child."""
    while True:
        try:
            with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
                children = file.read().split()
            with open(f"/proc/{pid}/comm", "rb") as file:
                name = file.read().strip()
        except OSError:
            return pid
        if len(children) != 1 or name not in _SHELLS:
            return pid
        pid = int(children[0])


def _word(pid: int, name: str) -> Optional[str]:
    try:
        with open(f"/proc/{pid}/{name}", encoding="ascii", errors="replace") as file:
            return file.read(100).strip() or None
    except OSError:
        return None


def _threads(pid: int) -> Optional[int]:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return None


def _last_text(path: Path) -> str:
    try:
        with open_regular(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _MOST_BYTES))
            return file.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _read_py_spy(path: Path) -> Dict[str, Any]:
    """Return what the main thread does, from what py-spy wrote; nothing where it could not look."""
    threads: List[Tuple[str, List[str]]] = []
    for line in _last_text(path).splitlines():
        frame = _FRAME.match(line)
        if line.startswith("Thread "):
            threads.append((line, []))
        elif frame and threads:
            threads[-1][1].append(frame.group(1))
    if not threads:
        return {}
    main = next((frames for head, frames in threads if '"MainThread"' in head), threads[0][1])
    python = [frame for frame in main if re.search(r"\.py:\d+\)$", frame)]
    return {
        "by": PY_SPY,
        "frames": (python or main)[:_FRAMES_TOLD],
        "native": [frame for frame in main if frame not in python and not frame.startswith("0x")][:_FRAMES_TOLD],
        "in_collective": in_collective(main),
    }


def _faulthandler_frames(text: str) -> List[str]:
    """Return the frames of the thread that faulthandler names as the current one, else of the last it lists."""
    found: List[List[str]] = []
    current: Set[int] = set()
    for line in text.splitlines():
        if line.startswith(("Thread 0x", "Current thread 0x")):
            if line.startswith("Current"):
                current.add(len(found))
            found.append([])
        elif (frame := _FAULT_FRAME.match(line)) and found:
            found[-1].append(f"{frame['name']} ({'/'.join(frame['file'].split('/')[-3:])}:{frame['line']})")
    if not found:
        return []
    return found[min(current)] if current else found[-1]
