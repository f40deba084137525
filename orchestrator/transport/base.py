"""Transport: one way to run programs on a host, whether it is this machine or one behind SSH."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from orchestrator.errors import HostError

MOST_OUTPUT_BYTES = 64 << 20  # what `run` takes; more is for `stream`
STDERR_KEPT_BYTES = 1 << 20  # of what a program says on standard error the end counts
CHUNK_BYTES = 1 << 18
_SHOWN_LETTERS = 80
_WRITTEN_S = 120.0  # for a disk to take what has arrived
_MOST_LETTERS = 500  # of what a program says, in a message of ours

# `put`: whole and in one step, or not at all; into a folder that is made where $5 is "make". A connection that breaks
# ends the input early: hence the count.
_PUT = """
umask 077
[ "$5" != make ] || mkdir -p -- "$(dirname -- "$1")" || exit 1
trap 'rm -f -- "$2"' EXIT
cat > "$2" && [ "$(wc -c < "$2")" -eq "$4" ] && chmod "$3" "$2" && mv -f -- "$2" "$1" && trap - EXIT
"""


@dataclass(frozen=True)
class Completed:
    """How a program ended: its exit code (128 and the signal's number where one killed it) and what it said."""

    code: int
    stdout: bytes
    stderr: bytes  # the last STDERR_KEPT_BYTES

    def last_words(self) -> str:
        """Return the last line of what it said on standard error, or how it ended."""
        lines = self.stderr.decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip()[:_MOST_LETTERS] if lines else f"exit code {self.code}"


class Stream(ABC):
    """A program that runs on a host. Closing it ends the program, as far as it can be reached."""

    @abstractmethod
    def read(self, timeout_s: Optional[float] = None) -> bytes:
        """Return the next of its standard output, b"" after the last.

        Raises TimeoutError where nothing came within *timeout_s*, HostError where the host is lost.
        """

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Give it *data* as input; what a program does not want any more is dropped."""

    @abstractmethod
    def end_input(self) -> None:
        """Tell it that no more input comes."""

    @abstractmethod
    def wait(self, timeout_s: Optional[float] = None) -> Completed:
        """Return how it ended, with no stdout. Raises TimeoutError, and HostError where the host is lost."""

    @abstractmethod
    def close(self) -> None:
        """End it if it still runs."""

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read():
            yield chunk

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Frames:
    """Lines and blocks of bytes from a stream, which comes in pieces."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._rest = b""

    def line(self, timeout_s: Optional[float] = None) -> Optional[bytes]:
        """Return the next line without its end, None after the last; a torn one is dropped.

        Raises TimeoutError where nothing came within *timeout_s*, HostError where the host is lost, ValueError for a
        line beyond MOST_OUTPUT_BYTES.
        """
        pieces = [self._rest]
        size = len(self._rest)
        while b"\n" not in pieces[-1]:
            block = self.stream.read(timeout_s)
            if not block:
                return None
            pieces.append(block)
            size += len(block)
            if size > MOST_OUTPUT_BYTES:
                raise ValueError(f"a line of more than {MOST_OUTPUT_BYTES >> 20} MiB")
        line, _, self._rest = b"".join(pieces).partition(b"\n")
        return line

    def take(self, length: int, timeout_s: Optional[float] = None) -> bytes:
        """Return the next *length* bytes, fewer where the stream ends. Raises as `line`."""
        while len(self._rest) < length:
            block = self.stream.read(timeout_s)
            if not block:
                break
            self._rest += block
        taken, self._rest = self._rest[:length], self._rest[length:]
        return taken


class Transport(ABC):
    """One host that can be reached. Words, paths and bytes arrive as they are; nothing is ever read by a shell.

    Every method raises HostError, which begins with the host's name. Methods may be called from several threads.
    """

    host: str  # its name
    address: str  # what was dialled: user@address:port

    @abstractmethod
    def stream(self, argv: Sequence[str]) -> Stream:
        """Start a program in the user's home, to be talked with while it runs. A missing one ends with code 127."""

    @abstractmethod
    def close(self) -> None:
        """End what still runs in our streams, and the connection."""

    def run(self, argv: Sequence[str], *, input: bytes = b"", timeout_s: float = 30.0) -> Completed:
        """Run a program to its end. It is ended where it takes longer, says more than 64 MiB, or we are interrupted."""
        deadline = time.monotonic() + timeout_s
        said = bytearray()
        with self.stream(argv) as stream:
            if input:
                threading.Thread(target=_feed, args=(stream, input), daemon=True).start()
            else:
                stream.end_input()
            try:
                while chunk := stream.read(max(0.0, deadline - time.monotonic())):
                    said += chunk
                    if len(said) > MOST_OUTPUT_BYTES:
                        raise HostError(f"{self.host}: {shown(argv)}: says more than {MOST_OUTPUT_BYTES >> 20} MiB")
                ended = stream.wait(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise HostError(f"{self.host}: {shown(argv)}: not done after {timeout_s:g} s") from None
        return Completed(ended.code, bytes(said), ended.stderr)

    def put(self, content: bytes, path: str, mode: int = 0o600, *, timeout_s: float = 300.0) -> None:
        """Write a file, whole and in one step; its folder must be there."""
        import secrets  # 5 ms that a launch need not spend

        path = as_operand(path)
        part = f"{path}.{secrets.token_hex(4)}.part"
        done = self.run(
            ["sh", "-c", _PUT, "sh", path, part, f"{mode:o}", str(len(content)), ""], input=content, timeout_s=timeout_s
        )
        if done.code != 0:
            raise HostError(f"{self.host}: cannot write {path}: {done.last_words()}")

    def put_file(self, source: Path, path: str, mode: int = 0o600) -> None:
        """Write a file, however large, whole and in one step, and make its folder. Raises OSError of *source*."""
        import secrets

        path = as_operand(path)
        part = f"{path}.{secrets.token_hex(4)}.part"
        with source.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            with self.stream(["sh", "-c", _PUT, "sh", path, part, f"{mode:o}", str(size), "make"]) as stream:
                while block := file.read(CHUNK_BYTES):
                    stream.write(block)
                stream.end_input()
                try:
                    stream.read(_WRITTEN_S)  # it says nothing, and ends
                    ended = stream.wait(_WRITTEN_S)
                except TimeoutError:
                    raise HostError(
                        f"{self.host}: {path} is not written {_WRITTEN_S:g} s after its last byte"
                    ) from None
        if ended.code != 0:
            raise HostError(f"{self.host}: cannot write {path}: {ended.last_words()}")

    def get(self, path: str) -> Generator[bytes, None, None]:
        """Yield the bytes of a file, in pieces."""
        with self.stream(["cat", "--", as_operand(path)]) as stream:
            stream.end_input()
            yield from stream
            ended = stream.wait()
            if ended.code != 0:
                raise HostError(f"{self.host}: cannot read {path}: {ended.last_words()}")

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Tail:
    """Keeps the end of what is added to it. For one writer; read it when that is done."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def add(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > 2 * STDERR_KEPT_BYTES:
            del self._kept[:-STDERR_KEPT_BYTES]

    def bytes(self) -> bytes:
        return bytes(self._kept[-STDERR_KEPT_BYTES:])


def with_setup(setup: Sequence[str], argv: Sequence[str]) -> "list[str]":
    """Return the words that run *argv* after the user's shell lines, in bash as these are written for it.

    What the lines print goes to standard error.
    """
    if not setup:
        return list(argv)
    # --norc: bash would take itself for a login by SSH, and run again what ~/.bashrc has.
    told = "trap 'echo \"the lines of setup: end with exit code $?\" >&2' EXIT; {"
    return ["bash", "--norc", "-c", "\n".join([told, *setup, "} >&2; trap - EXIT", 'exec "$@"']), "bash", *argv]


def as_operand(path: str) -> str:
    """Return *path* so that no program takes it for an option."""
    return f"./{path}" if path.startswith("-") else path


def shown(argv: Sequence[str]) -> str:
    """Return a command for a message: in one line, not too long."""
    text = " ".join(" ".join(argv).split())
    return text if len(text) <= _SHOWN_LETTERS else text[: _SHOWN_LETTERS - 1] + "…"


def _feed(stream: Stream, data: bytes) -> None:
    with contextlib.suppress(HostError):  # whoever reads from the stream learns of it
        stream.write(data)
        stream.end_input()
