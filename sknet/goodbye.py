"""How ranks part: none leaves before none needs another one any more."""

from __future__ import annotations

import ipaddress
import secrets
import selectors
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

WHERE = struct.Struct("!16sH8s")  # rank 0's address as IPv6, its port or 0 for "none", the run's token
HELLO = struct.Struct("!8sI")  # the run's token, the rank that is done


class Goodbye:
    """Keeps every rank alive until none needs another one any more. Call it once, at the end.

    A rank's last all-reduce returns when its own part is done; a neighbour may still wait for its acknowledgement. On
    the CPU backend a rank that then exits leaves that neighbour to fail 30 s later ("RingAllReduce wait sending
    failed"). Another collective cannot help: it would only be the new last one. So the ranks part over plain TCP
    connections: each tells rank 0 that it is done, and rank 0 hangs up once all have. Whoever cannot be reached within
    LONGEST_WAIT_S is not waited for: the work is done, and parting must not turn it into a failure.
    """

    LONGEST_WAIT_S = 30.0

    def __init__(self, rank: int, ranks: int, scheduler: str, add: Callable[[np.ndarray], np.ndarray]) -> None:
        """Open rank 0's port and tell every rank where it is.

        *add* sums a small float32 array over all ranks; this also proves that collectives work.
        """
        self._rank, self._ranks = rank, ranks
        self._listener = open_port(scheduler, ranks) if rank == 0 else None
        where = bytes(WHERE.size)  # rank 0 alone adds to the sum: one number a byte, which float32 holds exactly
        if self._listener:
            address, port = self._listener.getsockname()[:2]
            where = WHERE.pack(widened(address), port, secrets.token_bytes(8))
        told = add(np.frombuffer(where, np.uint8).astype(np.float32)).astype(np.uint8).tobytes()
        packed, self._port, self._token = WHERE.unpack(told)
        self._address = narrowed(packed)

    def __call__(self) -> None:
        try:
            if self._listener:
                self._wait_for_all(self._listener)
            elif self._port:
                with socket.create_connection((self._address, self._port), timeout=self.LONGEST_WAIT_S) as rank_0:
                    rank_0.sendall(HELLO.pack(self._token, self._rank))
                    rank_0.recv(1)  # returns when rank 0 hangs up
        except OSError:
            pass

    def _wait_for_all(self, listener: socket.socket) -> None:
        """Hear all connections at once until each other rank has spoken. What strangers do delays nobody."""
        deadline = time.monotonic() + self.LONGEST_WAIT_S
        missing = set(range(1, self._ranks))
        listener.setblocking(False)
        with ExitStack() as opened:
            selector = opened.enter_context(selectors.DefaultSelector())
            selector.register(opened.enter_context(listener), selectors.EVENT_READ)
            while missing and (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    try:
                        if key.fileobj is listener:
                            connection = opened.enter_context(listener.accept()[0])
                            connection.setblocking(False)
                            selector.register(connection, selectors.EVENT_READ, (connection, bytearray()))
                        elif said := heard(*key.data):
                            selector.unregister(key.fileobj)
                            token, rank = HELLO.unpack(said)
                            if token == self._token:
                                missing.discard(rank)
                    except OSError:  # this connection is lost, the others are not
                        if key.fileobj is not listener:
                            selector.unregister(key.fileobj)


def heard(connection: socket.socket, so_far: bytearray) -> bytes | None:
    """Take what has arrived; return the whole greeting, or None while some of it is missing. Raises OSError at its end.

    *so_far* holds what came before. The connection must be readable.
    """
    piece = connection.recv(HELLO.size - len(so_far))
    if not piece:
        raise ConnectionError("hung up before it said who it is")
    so_far += piece
    return bytes(so_far) if len(so_far) == HELLO.size else None


def open_port(scheduler: str, ranks: int) -> socket.socket | None:
    """Listen where the ranks that reach *scheduler* from here can also reach us; None where that cannot be."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(scheduler, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)  # chooses our own address; a datagram socket sends nothing yet
            address = probe.getsockname()[0]
        return socket.create_server((address, 0), family=family, backlog=ranks)
    except OSError:
        return None


def widened(address: str) -> bytes:
    """Return the 16 bytes of an address as IPv6, an IPv4 one mapped into it (RFC 4291, section 2.5.5.2)."""
    return ipaddress.IPv6Address(address if ":" in address else f"::ffff:{address}").packed


def narrowed(packed: bytes) -> str:
    """Return the address whose bytes widened() gave."""
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)
