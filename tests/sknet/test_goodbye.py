"""Parting over real sockets; threads play the ranks."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import pytest

from sknet.goodbye import HELLO, WHERE, Goodbye, narrowed, widened


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Goodbye, "LONGEST_WAIT_S", 5.0)


def ipv6_works() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def meet(ranks: int, scheduler: str = "127.0.0.1") -> list[Goodbye]:
    """Return the parting of each rank; the sum over the ranks is what rank 0, the only one to add, gave."""
    given: list[np.ndarray] = []

    def add(values: np.ndarray) -> np.ndarray:
        given.append(values)
        return np.sum(given, axis=0, dtype=np.float32)

    return [Goodbye(rank, ranks, scheduler, add) for rank in range(ranks)]


def port_of(rank_0: Goodbye) -> tuple[str, int]:
    return rank_0._address, rank_0._port


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_no_rank_leaves_before_the_last_one_is_done(threads: ThreadPoolExecutor) -> None:
    *early, last = meet(3)
    leaving = [threads.submit(each) for each in early]
    assert not wait(leaving, timeout=0.5).done
    last()
    assert not wait(leaving, timeout=1.0).not_done


def test_strangers_that_are_silent_reset_or_talk_delay_nobody_and_count_as_nobody(threads: ThreadPoolExecutor) -> None:
    rank_0, rank_1, rank_2 = meet(3)
    with ThreadPoolExecutor(1) as own:
        leaving = own.submit(rank_0)
        silent = socket.create_connection(port_of(rank_0))
        resetting = socket.create_connection(port_of(rank_0))
        resetting.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        resetting.close()  # the other side reads ECONNRESET
        gone = socket.create_connection(port_of(rank_0))
        gone.close()
        talking = [socket.create_connection(port_of(rank_0)) for _ in range(2)]
        talking[0].sendall(b"GET / HTTP/1.1\r\nHost: rank-0\r\n\r\n")
        talking[1].sendall(HELLO.pack(bytes(8), 2))  # a rank of another run
        same = threads.submit(rank_1), threads.submit(rank_1)  # one rank, heard twice, is still one
        assert not wait([leaving, *same], timeout=0.5).done
        start = time.monotonic()
        rank_2()
        leaving.result(timeout=1.0)
        assert time.monotonic() - start < 1.0
        for connection in (silent, *talking):
            connection.close()


def test_a_greeting_that_comes_in_pieces_is_understood() -> None:
    rank_0, rank_1 = meet(2)
    leaving = threading.Thread(target=rank_0)
    leaving.start()
    with socket.create_connection(port_of(rank_0)) as slow:
        for byte in HELLO.pack(rank_1._token, 1):
            slow.sendall(bytes([byte]))
            time.sleep(0.01)
        leaving.join(timeout=1.0)
    assert not leaving.is_alive()


def test_a_rank_that_never_comes_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Goodbye, "LONGEST_WAIT_S", 0.3)
    start = time.monotonic()
    meet(2)[0]()
    assert 0.3 <= time.monotonic() - start < 2.0


@pytest.mark.skipif(not ipv6_works(), reason="no IPv6 here")
def test_ranks_meet_and_part_over_ipv6(threads: ThreadPoolExecutor) -> None:
    rank_0, rank_1 = meet(2, "::1")
    assert port_of(rank_1) == port_of(rank_0)
    assert port_of(rank_0)[0] == "::1"
    leaving = threads.submit(rank_0)
    assert not wait([leaving], timeout=0.2).done
    rank_1()
    leaving.result(timeout=1.0)


def test_without_a_port_on_rank_0_everybody_just_leaves() -> None:
    start = time.monotonic()
    for rank in meet(2, "no-such-host.invalid"):
        rank()
    assert time.monotonic() - start < 3.0


@pytest.mark.parametrize("address", ["10.1.255.0", "127.0.0.1", "::1", "2001:db8::7:0"])
def test_an_address_of_either_family_travels_in_16_bytes(address: str) -> None:
    assert len(widened(address)) == 16
    assert narrowed(widened(address)) == address
    assert WHERE.size == 26
