"""The machine we run on: what it offers, how a supervisor starts on it, and how a program does."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from orchestrator.errors import HostError
from orchestrator.inventory import Device, Host
from orchestrator.supervisor import machine, starting
from orchestrator.supervisor.linux import die_with_parent
from orchestrator.supervisor.main import supervise
from orchestrator.supervisor.rundir import RunDir
from orchestrator.transport.base import CHUNK_BYTES, Completed, Stream, Tail, Transport, shown

if TYPE_CHECKING:
    import subprocess

CPU_DEVICES = 8  # ranks that a host without Ascend takes at least: as many as an Ascend server has devices
_GRACE_S = 1.0  # between SIGTERM and SIGKILL for a program that nobody waits for any more


def this_host(backend: str) -> Host:
    """Return this machine with its devices: Ascend's, or with *backend* `auto` CPU ones where it has none.

    Raises HostError for backend `ascend` on a machine without Ascend devices.
    """
    ascend = machine.ascend_device_ids()
    if backend == "ascend" and not ascend:
        raise HostError("this machine has no Ascend device (no /dev/davinci0); use --backend cpu, or auto")
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    backend, ids = offer(backend, ascend, len(cpus))
    return Host(
        name=socket.gethostname(),
        address="127.0.0.1",
        backend=backend,
        devices=tuple(Device(device_id) for device_id in ids),
        cpus=cpus,
        cpu_flags=frozenset(machine.cpu_flags()),
    )


def offer(backend: str, ascend: "Sequence[int]", cpus: int) -> "tuple[str, Sequence[int]]":
    """Return the backend that `auto` comes to on a host of *ascend* devices and *cpus*, and which devices it offers."""
    return ("ascend", ascend) if ascend and backend != "cpu" else ("cpu", range(max(CPU_DEVICES, cpus)))


def is_port_free(port: int, address: str = "127.0.0.1") -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((address, port))
        except OSError:
            return False
    return True


def start_watch(run_dir: RunDir, watch: "starting.Watch" = supervise) -> None:
    """Start what watches over *run_dir* and outlives us; return once one is under way, ours or another's.

    Raises HostError with its own words where it could not begin; OSError where its log cannot be written.
    """
    reason = starting.start(run_dir, watch)
    if reason:
        raise HostError(reason)


def start_child(argv: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a program in this folder, its output to be read from us, its errors on our terminal.

    It is in a session of its own, so that Ctrl-C reaches it by us alone, and dies with us however we end.
    Raises HostError where it cannot be started.
    """
    import subprocess  # 10 ms that a launch need not spend

    try:
        return subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    except OSError as exc:
        raise HostError(f"cannot start {argv[0]}: {exc.strerror}") from exc


class Local(Transport):
    """This machine, as one host among others."""

    def __init__(self, host: str = "localhost") -> None:
        self.host = self.address = host
        self._streams: "set[_LocalStream]" = set()
        self._starting = threading.Lock()
        self._closed = False

    def stream(self, argv: Sequence[str]) -> Stream:
        import subprocess

        with self._starting:
            if self._closed:
                raise HostError(f"{self.host}: the connection is closed")
            try:
                # By a shell, so that a program that is missing ends with code 127 here as it does on a far host.
                process = subprocess.Popen(
                    ["/bin/sh", "-c", 'exec "$@"', "sh", *argv],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=Path.home(),
                    start_new_session=True,
                    bufsize=0,
                )
            except (OSError, ValueError) as exc:  # ValueError: a NUL character
                raise HostError(f"{self.host}: cannot run {shown(argv)}: {exc}") from exc
            stream = _LocalStream(process, self._streams.discard)
            self._streams.add(stream)
            return stream

    def close(self) -> None:
        with self._starting:  # what another thread starts just now must not be missed
            self._closed = True
        for stream in list(self._streams):
            stream.end()  # whoever reads from it learns of that, and closes it


class _LocalStream(Stream):
    def __init__(self, process: "subprocess.Popen[bytes]", forget: "Callable[[_LocalStream], None]") -> None:
        assert process.stdin and process.stdout and process.stderr
        self._process, self._forget = process, forget
        self._stdin, self._stdout, self._errors = process.stdin, process.stdout, process.stderr
        self._writing = threading.Lock()
        self._stderr = Tail()
        self._reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._reader.start()

    def read(self, timeout_s: Optional[float] = None) -> bytes:
        poll = select.poll()  # `select` knows no more than 1024 files
        poll.register(self._stdout, select.POLLIN)
        if not poll.poll(None if timeout_s is None else 1000 * timeout_s):
            raise TimeoutError(f"nothing within {timeout_s} s")
        return os.read(self._stdout.fileno(), CHUNK_BYTES)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        with self._writing, contextlib.suppress(OSError, ValueError):  # it does not want any more, or was closed
            while view:
                view = view[self._stdin.write(view) :]

    def end_input(self) -> None:
        # Never under a thread that writes: the next file to be opened would get its number, and then its bytes.
        if self._writing.acquire(timeout=_GRACE_S):
            with contextlib.suppress(OSError):
                self._stdin.close()
            self._writing.release()

    def wait(self, timeout_s: Optional[float] = None) -> Completed:
        import subprocess

        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as exc:
            raise TimeoutError(f"not ended within {timeout_s} s") from exc
        self._reader.join(_GRACE_S)  # a child of it that runs on may hold its standard error
        return Completed(code if code >= 0 else 128 - code, b"", self._stderr.bytes())

    def end(self) -> None:
        """End the program, and what it started, if it still runs."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError, TimeoutError):
                    os.killpg(self._process.pid, number)
                    self.wait(_GRACE_S)

    def close(self) -> None:
        self.end()
        self.end_input()
        self._stdout.close()
        self._forget(self)

    def _read_stderr(self) -> None:
        with self._errors:
            while data := self._errors.read(CHUNK_BYTES):
                self._stderr.add(data)
