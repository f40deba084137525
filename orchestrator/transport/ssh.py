"""Ssh: a host behind one SSH connection, which all that we run there shares."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Optional

import paramiko

from orchestrator.errors import HostError
from orchestrator.transport.base import CHUNK_BYTES, Completed, Stream, Tail, Transport, shown

_SESSIONS = 9  # of the 10 that sshd allows a connection by default; one is left for ending what the others run
_OPEN_TIMEOUT_S = 20.0
_FREED_TIMEOUT_S = 10.0  # how long a session that we have closed may take to be free again
_KILL_TIMEOUT_S = 3.0
_KEEPALIVE_S = 15
_LONGEST_COMMAND = 120_000  # bytes; Linux gives a program's argument 128 KiB
_LEAST_TIMEOUT_S = 0.001  # to paramiko, 0 means not to block at all, for those who write too
_SAFE = re.compile(rb"[A-Za-z0-9/._,:=@+ -]")
# Asks each process group to end, and a second later makes it; over as soon as all are gone.
_KILL = (
    "exec /bin/sh -c 'exec 2> /dev/null; for pid in PIDS; do (kill -TERM -$pid; tries=10; "
    "while kill -0 -$pid && [ $tries -gt 0 ]; do sleep 0.1; tries=$((tries - 1)); done; kill -KILL -$pid) & done; wait'"
)
_ALIKE = re.compile(rb"[ \"-&(-\[\]-~]{1,4096}")  # what all shells take as it is between single quotes
_MOST_NOISE_BYTES = 1 << 20  # that a start-up file of the far shell may print before our program's first word


class Ssh(Transport):
    """A host at the other end of *connection*, which is authenticated and ours to close."""

    def __init__(self, host: str, address: str, connection: paramiko.Transport) -> None:
        self.host, self.address = host, address
        self._connection = connection
        self._sessions = threading.Condition()
        self._most_sessions = _SESSIONS
        self._streams: "set[_SshStream]" = set()
        self._open_sessions = 0
        self._closing = False
        connection.set_keepalive(_KEEPALIVE_S)

    def is_alive(self) -> bool:
        return self._connection.is_active()

    def stream(self, argv: Sequence[str]) -> Stream:
        mark = secrets.token_hex(8)
        command = _command(argv, mark, self.host)
        channel = self._open_session()
        try:
            with self._translated("cannot run a program"):
                channel.exec_command(command)
            stream = _SshStream(self, channel, mark, argv)
        except BaseException:
            channel.close()
            self._session_ended()
            raise
        with self._sessions:
            self._streams.add(stream)
            self._sessions.notify_all()
        return stream

    def tunnel(self, address: str, port: int, timeout_s: float) -> socket.socket:
        """Return a connection that the host makes for us to *address*. Raises HostError."""
        try:
            channel = self._connection.open_channel(
                "direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=timeout_s
            )
        except (paramiko.SSHException, OSError, EOFError) as exc:
            if self.is_alive():
                raise HostError(
                    f"the jump host {self.host} does not reach {address} port {port}: {_words(exc)}"
                ) from exc
            raise HostError(f"{self.host}: the connection is lost") from exc
        return channel  # type: ignore[return-value]  # it has what paramiko asks of a socket

    def close(self) -> None:
        with self._sessions:
            self._closing = True
            self._sessions.notify_all()
            # Another thread may be about to start a program, which must not be missed.
            self._sessions.wait_for(lambda: self._open_sessions == len(self._streams), _KILL_TIMEOUT_S)
            streams = list(self._streams)
        self._end(streams)
        self._connection.close()
        with self._sessions:
            self._sessions.notify_all()

    def _open_session(self) -> paramiko.Channel:
        """Return a new session; wait for one of ours to end where the host takes no more."""
        with self._sessions:
            while self._open_sessions >= self._most_sessions and self.is_alive() and not self._closing:
                self._sessions.wait()
            if self._closing:
                raise HostError(f"{self.host}: the connection is closed")
            self._open_sessions += 1
        try:
            return self._ask_for_session()
        except BaseException:
            self._session_ended()
            raise

    def _ask_for_session(self) -> paramiko.Channel:
        deadline = time.monotonic() + _FREED_TIMEOUT_S
        while True:
            try:
                return self._connection.open_session(timeout=_OPEN_TIMEOUT_S)
            except (paramiko.SSHException, EOFError, OSError) as exc:
                if not self.is_alive():
                    raise HostError(f"{self.host}: the connection is lost") from exc
                with self._sessions:
                    others = self._open_sessions - 1
                    if others == 0 and time.monotonic() >= deadline:
                        raise HostError(
                            f"{self.host}: it opens no session ({_words(exc)}); see MaxSessions in its sshd_config"
                        ) from exc
                    # It allows fewer than sshd does by default, or has not noticed yet that one of ours has ended.
                    self._most_sessions = max(1, min(self._most_sessions, others))
                    self._sessions.wait(timeout=0.1 if others == 0 else _FREED_TIMEOUT_S)

    def _session_ended(self) -> None:
        with self._sessions:
            self._open_sessions -= 1
            self._sessions.notify_all()

    def _forget(self, stream: _SshStream) -> None:
        with self._sessions:
            known = stream in self._streams
            self._streams.discard(stream)
        if known:
            self._session_ended()

    def _end(self, streams: "Sequence[_SshStream]") -> None:
        """Kill what still runs in *streams*, in a session of its own: sshd passes no signal on to root's programs."""
        pids = [str(pid) for stream in streams if (pid := stream.running_pid()) is not None]
        if pids and self.is_alive():
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                channel = self._connection.open_session(timeout=_KILL_TIMEOUT_S)
                channel.exec_command(_KILL.replace("PIDS", " ".join(pids)))
                channel.status_event.wait(_KILL_TIMEOUT_S)
                channel.close()
        for stream in streams:
            stream.let_go()

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except (paramiko.SSHException, EOFError, OSError) as exc:
            reason = _words(exc) if self.is_alive() else "the connection is lost"
            raise HostError(f"{self.host}: {what}: {reason}") from exc


class _SshStream(Stream):
    def __init__(self, owner: Ssh, channel: paramiko.Channel, mark: str, argv: Sequence[str]) -> None:
        self._owner = owner
        self._channel = channel
        self._argv = argv
        self._mark = mark.encode()
        self._started = False  # whether our program's own output has begun
        self._noise = bytearray()
        self._stderr = Tail()
        self._pid: Optional[int] = None
        self._pid_known = threading.Event()
        self._stderr_ended = threading.Event()
        self.ended: threading.Event = channel.status_event
        threading.Thread(target=self._read_stderr, daemon=True).start()

    def read(self, timeout_s: Optional[float] = None) -> bytes:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = None if deadline is None else max(_LEAST_TIMEOUT_S, deadline - time.monotonic())
            self._channel.settimeout(left)
            try:
                data = self._channel.recv(CHUNK_BYTES)
            except socket.timeout as exc:
                raise TimeoutError(f"nothing within {timeout_s} s") from exc
            if not data or self._started:
                return data
            self._noise += data
            _, mark, rest = self._noise.partition(self._mark + b"\n")
            if mark:
                self._started = True
                self._noise.clear()
                if rest:
                    return bytes(rest)
            elif len(self._noise) > _MOST_NOISE_BYTES:
                raise HostError(f"{self._owner.host}: its shell's start-up files print without end")

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                sent = self._channel.send(view[:CHUNK_BYTES])  # type: ignore[arg-type]
            except socket.timeout:  # a reader's timeout: the channel has one for both ways
                continue
            except OSError:
                return  # it does not want any more, or is gone: whoever reads learns which
            if sent == 0:
                return
            view = view[sent:]

    def end_input(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._channel.shutdown_write()

    def wait(self, timeout_s: Optional[float] = None) -> Completed:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for event in (self.ended, self._stderr_ended):
            left = None if deadline is None else max(_LEAST_TIMEOUT_S, deadline - time.monotonic())
            if not event.wait(left):
                raise TimeoutError(f"not ended within {timeout_s} s")
        code = self._channel.exit_status
        if code < 0:
            how = "was killed there" if self._owner.is_alive() else "the connection is lost"
            raise HostError(f"{self._owner.host}: {shown(self._argv)}: {how}")
        if not self._started:
            said = (bytes(self._noise) + self._stderr.bytes()).decode("utf-8", "replace").split("\n")
            last = next((line.strip() for line in reversed(said) if line.strip()), f"exit code {code}")
            raise HostError(f"{self._owner.host}: its login shell does not run what we ask for: {last}")
        return Completed(code, b"", self._stderr.bytes())

    def close(self) -> None:
        if self.ended.is_set():
            self.let_go()
        else:
            self._owner._end([self])

    def let_go(self) -> None:
        """Close the session, whatever runs in it."""
        self._channel.close()
        self._owner._forget(self)

    def running_pid(self) -> Optional[int]:
        """Return the process group of our program, or None where it has ended or never began."""
        if not self.ended.is_set():
            self._pid_known.wait(_KILL_TIMEOUT_S)
        return None if self.ended.is_set() else self._pid

    def _read_stderr(self) -> None:
        noise = bytearray()
        try:
            while data := self._channel.recv_stderr(CHUNK_BYTES):
                if self._pid_known.is_set():
                    self._stderr.add(data)
                    continue
                noise = noise[-_MOST_NOISE_BYTES:] + data
                match = re.search(self._mark + rb" (\d{1,9})\n", noise)
                if match:
                    self._pid = int(match.group(1))
                    self._pid_known.set()
                    self._stderr.add(bytes(noise[match.end() :]))
        except OSError:
            pass  # closed by us
        if not self._pid_known.is_set():
            self._stderr.add(bytes(noise))
        self._pid_known.set()
        self._stderr_ended.set()


def _command(argv: Sequence[str], mark: str, host: str) -> str:
    """Return the line that has any login shell run *argv*, word by word, in a process group of its own.

    The line is ASCII that bourne shells, csh and fish read alike; the words are in it in octal, for POSIX printf. The
    mark on both outputs tells our program's words from those of start-up files, and the pid ends what we leave.
    """
    if not argv or any("\0" in word for word in argv):
        raise HostError(f"{host}: {shown(argv)!r} cannot be run: no program takes a NUL character")
    if argv[0].startswith("-"):
        raise HostError(f"{host}: {shown(argv)}: no program is called by an option")
    words = " ".join(shlex.quote(word) for word in argv)
    text = os.fsencode(f"echo {mark}; echo {mark} $$ >&2; (exec {words}); exit $?")
    if _ALIKE.fullmatch(text):
        return f"exec /bin/sh -c '{text.decode()}'"
    line = b"".join(byte if _SAFE.match(byte) else b"\\0%03o" % ord(byte) for byte in _bytes_of(text))
    if len(line) > _LONGEST_COMMAND:
        raise HostError(
            f"{host}: {shown(argv)}: {len(text):,} bytes are too many for a command; send them as its input"
        )
    return f"""exec /bin/sh -c 'eval "$(printf %b "$1")"' sh '{line.decode()}'"""


def _bytes_of(text: bytes) -> "Iterator[bytes]":
    return (text[index : index + 1] for index in range(len(text)))


def _words(exc: BaseException) -> str:
    """Return what an exception says, in one line."""
    return " ".join(str(exc).split()) or type(exc).__name__
