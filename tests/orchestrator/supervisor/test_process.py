from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.supervisor.process import (
    MARK,
    Identity,
    Stat,
    all_processes,
    carries_mark,
    descendants,
    read_stat,
    send_signal,
    signal_name,
    wait_until_gone,
)

# Says "up", then stays until its input is closed.
STAY = "import sys; print('up', flush=True); sys.stdin.read()"


@contextmanager
def program(code: str = STAY, **variables: str) -> "Iterator[subprocess.Popen[bytes]]":
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **variables},
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_we_ourselves_are_alive_and_known() -> None:
    identity = Identity.of(os.getpid())
    assert identity is not None and identity.is_alive()
    stat = read_stat(os.getpid())
    assert stat is not None
    assert (stat.parent, stat.group, stat.session) == (os.getppid(), os.getpgrp(), os.getsid(0))


def test_a_process_is_alive_until_it_is_killed_and_a_zombie_is_dead() -> None:
    with program() as process:
        identity = Identity.of(process.pid)
        assert identity is not None and identity.is_alive()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended and is not collected
        stat = read_stat(process.pid)
        assert stat is not None and stat.state == "Z"
        assert not identity.is_alive()
        assert process.pid not in all_processes()
        process.wait()
        assert not identity.is_alive()
        assert Identity.of(process.pid) is None


def test_another_process_with_the_same_pid_is_another_process() -> None:
    identity = Identity.of(os.getpid())
    assert identity is not None
    assert not Identity(identity.pid, identity.start_ticks - 1).is_alive()


@pytest.mark.parametrize("pid", [2**22 + 1, 2**31 - 1])
def test_there_is_no_process_of_a_pid_that_cannot_be(pid: int) -> None:
    assert read_stat(pid) is None and Identity.of(pid) is None
    assert not Identity(pid, 1).is_alive()
    assert not carries_mark(pid, "run")


@pytest.mark.parametrize("name", [b"a b", b"a) Z 1", b"((", b") Z 1 1 1", b"\xff\xfe", b"new\nline", b"()"])
def test_a_process_may_have_any_name(name: bytes) -> None:
    code = f"open('/proc/self/comm', 'wb').write({name!r}); " + STAY
    with program(code) as process:
        stat = read_stat(process.pid)
        assert stat is not None and stat.parent == os.getpid()
        assert stat.state in "RSD"
        identity = Identity.of(process.pid)
        assert identity is not None and identity.is_alive()
        assert process.pid in all_processes()


def test_children_and_grandchildren_are_descendants() -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'])\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        grandchild = int(process.stdout.readline())
        found = descendants([os.getpid()], all_processes())
        assert {process.pid, grandchild} <= found
        assert os.getpid() not in found
        assert descendants([process.pid], all_processes()) == {grandchild}
        process.stdin.close()  # both read from it, so both end


@given(st.dictionaries(st.integers(1, 12), st.integers(0, 12), max_size=12), st.sets(st.integers(1, 12), max_size=3))
def test_descendants_are_all_those_from_whom_a_root_is_reached(parents: "dict[int, int]", roots: "set[int]") -> None:
    processes = {pid: Stat(pid, "S", parent, pid, pid, 1) for pid, parent in parents.items()}

    def reaches_root(pid: int) -> bool:
        seen: "set[int]" = set()
        while pid in parents and pid not in seen:
            seen.add(pid)
            pid = parents[pid]
            if pid in roots:
                return True
        return False

    assert descendants(roots, processes) - roots == {pid for pid in parents if reaches_root(pid)} - roots


def test_the_mark_of_a_run_is_found_in_the_environment_and_matched_whole() -> None:
    with program(**{MARK: "run-12"}) as process:
        assert carries_mark(process.pid, "run-12")
        assert not carries_mark(process.pid, "run-1")
        assert not carries_mark(process.pid, "un-12")
    with program(OTHER=f"{MARK}=run-12") as process:
        assert not carries_mark(process.pid, "run-12")


def test_signals_are_sent_or_nobody_was_there_to_get_them() -> None:
    with program() as process:
        assert send_signal(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not send_signal(process.pid, signal.SIGKILL)
        assert not send_signal(process.pid, signal.SIGKILL, group=True)


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (15, "SIGTERM"), (63, "signal 63"), (999, "signal 999")])
def test_signals_have_names(number: int, name: str) -> None:
    assert signal_name(number) == name


def test_waiting_ends_when_all_are_gone() -> None:
    with program() as first, program() as second:
        first.kill()
        second.kill()
        wait_until_gone([first.pid, second.pid, 2**22 + 1], 60.0)
        for process in (first, second):
            stat = read_stat(process.pid)
            assert stat is None or stat.is_dead


def test_waiting_ends_when_the_time_is_over() -> None:
    wait_until_gone([os.getpid()], 0.0)
    assert read_stat(os.getpid()) is not None, "it returned although we live on"
