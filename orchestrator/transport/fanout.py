"""Many hosts at once: connect to all, and do the same on each, with results or HostErrors in the inventory's order."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Optional, TypeVar, Union

from orchestrator.errors import HostError
from orchestrator.inventory import HostEntry
from orchestrator.transport.base import Transport
from orchestrator.transport.local import Local

if TYPE_CHECKING:
    from orchestrator.transport.ssh_dial import Dialer

AT_ONCE = 32  # hosts: more connects at a time are no faster, and keep a small machine from anything else
_HEED_S = 0.5  # Ctrl-C is heeded within this

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Connected:
    """A host that answers, and how long connecting took."""

    entry: HostEntry
    transport: Transport
    connect_s: float


class Roads:
    """Opens connections to hosts, each asked for once: a key that was unlocked stays so. Close it after them."""

    def __init__(self, ssh_config: Optional[Path] = None, *, accept_new_host_keys: bool = False) -> None:
        """*ssh_config* None is ~/.ssh/config."""
        self._ssh_config = ssh_config
        self._accept_new_host_keys = accept_new_host_keys
        self._lock = threading.Lock()
        self._dialer: "Optional[Dialer]" = None
        self._closed = False

    def dial(self, entry: HostEntry) -> Transport:
        """Connect. Raises HostError, which says what is wrong and what helps, and SpecError for the configuration."""
        if entry.is_this_machine():
            return Local(entry.name)
        return self._ways(entry).dial(entry)

    def unlock(self, entries: "Sequence[HostEntry]") -> None:
        """Ask at the terminal, if there is one, for the passphrases of keys that *entries* need. Raises SpecError."""
        far = [entry for entry in entries if not entry.is_this_machine()]
        if far:
            self._ways(far[0]).unlock(far)

    def _ways(self, entry: HostEntry) -> "Dialer":
        with self._lock:
            if self._closed:
                raise HostError(f"{entry.name}: interrupted")
            if self._dialer is None:
                from orchestrator.transport.ssh_dial import Dialer  # paramiko takes 0.2 s: only where a host is far

                self._dialer = Dialer(self._ssh_config, accept_new_host_keys=self._accept_new_host_keys)
            return self._dialer

    def close(self) -> None:
        """End the connections to jump hosts, and whatever is being dialled."""
        with self._lock:
            self._closed = True
        if self._dialer is not None:
            self._dialer.close()


class Fleet:
    """The hosts of an inventory: connections to those that answer, HostErrors of the others. Close it after use."""

    def __init__(self, members: "Sequence[tuple[HostEntry, Union[Connected, HostError]]]", roads: Roads):
        self.members = tuple(members)
        self.roads = roads

    @property
    def connected(self) -> "list[Connected]":
        return [member for _, member in self.members if isinstance(member, Connected)]

    @property
    def errors(self) -> "dict[str, HostError]":
        """Return why the others do not answer, by name of the host."""
        return {entry.name: member for entry, member in self.members if isinstance(member, HostError)}

    def each(self, do: "Callable[[HostEntry, Transport], T]") -> "dict[str, Union[T, HostError]]":
        """Call *do* on all hosts in parallel; a host that is not connected gives its error again."""

        def one(member: "tuple[HostEntry, Union[Connected, HostError]]") -> T:
            entry, connected = member
            if isinstance(connected, HostError):
                raise connected
            return do(entry, connected.transport)

        return {
            entry.name: outcome
            for (entry, _), outcome in zip(self.members, in_parallel(self.members, one, interrupt=self.close))
        }

    def close(self) -> None:
        """End what still runs there by us, and all connections."""
        in_parallel(self.connected, lambda connected: connected.transport.close())
        self.roads.close()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_all(
    entries: Sequence[HostEntry],
    *,
    ssh_config: Optional[Path] = None,
    accept_new_host_keys: bool = False,
    at_once: int = AT_ONCE,
    roads: Optional[Roads] = None,
) -> Fleet:
    """Connect to all hosts; those that cannot be reached stay in the fleet as HostErrors.

    *ssh_config* None is ~/.ssh/config; *roads* that led to hosts before know theirs. Raises SpecError where it cannot
    be read.
    """
    roads = roads or Roads(ssh_config, accept_new_host_keys=accept_new_host_keys)
    opened: "list[Transport]" = []

    def connect(entry: HostEntry) -> Connected:
        began = time.monotonic()
        transport = roads.dial(entry)
        opened.append(transport)
        return Connected(entry, transport, time.monotonic() - began)

    def give_up() -> None:
        roads.close()
        for transport in opened:
            transport.close()

    return Fleet(list(zip(entries, in_parallel(entries, connect, at_once=at_once, interrupt=give_up))), roads)


def in_parallel(
    items: Sequence[T],
    do: "Callable[[T], R]",
    *,
    at_once: int = AT_ONCE,
    interrupt: "Optional[Callable[[], None]]" = None,
) -> "list[Union[R, HostError]]":
    """Return what *do* gives for each item, or its HostError, in order. Any other exception is raised here.

    *interrupt* is called where waiting for them is interrupted; the threads then end by themselves, unwaited for.
    """
    work: "queue.SimpleQueue[int]" = queue.SimpleQueue()
    results: "queue.SimpleQueue[_Result[R]]" = queue.SimpleQueue()
    for index in range(len(items)):
        work.put(index)

    def labour() -> None:
        while True:
            try:
                index = work.get_nowait()
            except queue.Empty:
                return
            try:
                results.put(_Result(index, value=do(items[index])))
            except BaseException as exc:
                results.put(_Result(index, error=exc))

    # Daemons: a host that hangs must not keep us from ending after Ctrl-C.
    for _ in range(min(at_once, len(items))):
        threading.Thread(target=labour, daemon=True).start()
    outcomes: "dict[int, Union[R, HostError]]" = {}
    try:
        for _ in items:
            result = _next(results)
            if result.error is not None and not isinstance(result.error, HostError):
                raise result.error
            outcomes[result.index] = result.error if result.error is not None else result.value  # type: ignore[assignment]
    except BaseException:
        while not work.empty():
            try:
                work.get_nowait()
            except queue.Empty:
                break
        if interrupt is not None:
            interrupt()
        raise
    return [outcomes[index] for index in range(len(items))]


def _next(results: "queue.SimpleQueue[_Result[R]]") -> "_Result[R]":
    """Return the next of *results*; awake now and then: a signal that another thread took does not wake this one."""
    while True:
        try:
            return results.get(timeout=_HEED_S)
        except queue.Empty:
            continue


@dataclass(frozen=True)
class _Result(Generic[R]):
    index: int
    value: Optional[R] = None
    error: Optional[BaseException] = None
