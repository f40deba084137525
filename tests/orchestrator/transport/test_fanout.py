from __future__ import annotations

import threading

import pytest

from orchestrator.errors import HostError
from orchestrator.inventory import HostEntry
from orchestrator.transport.base import with_setup
from orchestrator.transport.fanout import in_parallel, open_all
from orchestrator.transport.local import Local


def test_outcomes_come_in_order_whoever_is_done_first() -> None:
    last = threading.Event()

    def do(number: int) -> int:
        if number == 3:
            last.set()
        assert last.wait(10)
        if number % 2:
            raise HostError(f"{number}")
        return number

    outcomes = in_parallel(range(4), do)
    assert [str(outcome) for outcome in outcomes] == ["0", "1", "2", "3"]
    assert [isinstance(outcome, HostError) for outcome in outcomes] == [False, True, False, True]


def test_no_more_run_at_once_than_may() -> None:
    running, most, lock = 0, 0, threading.Lock()
    both = threading.Barrier(2)

    def do(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(10)
        with lock:
            running -= 1

    in_parallel(range(8), do, at_once=2)
    assert most == 2


def test_a_mistake_of_ours_is_no_outcome_but_raised_and_what_has_not_begun_never_does() -> None:
    begun: "list[int]" = []
    interrupted = threading.Event()

    def do(number: int) -> None:
        begun.append(number)
        if number > 0:
            assert interrupted.wait(10)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_parallel(range(1000), do, at_once=1, interrupt=interrupted.set)
    assert interrupted.is_set()
    assert begun in ([0], [0, 1])


def test_nothing_to_do_is_done_at_once() -> None:
    assert in_parallel([], lambda item: item) == []


def test_this_machine_needs_no_ssh() -> None:
    with open_all([HostEntry("here", "localhost")]) as fleet:
        (done,) = fleet.each(lambda entry, transport: transport.run(["echo", entry.name])).values()
        assert not isinstance(done, HostError)
        assert done.stdout == b"here\n"
        assert fleet.errors == {}


def test_closing_ends_what_other_threads_have_just_begun() -> None:
    local = Local()
    ended: "list[str]" = []

    def run(_: int) -> None:
        while True:
            try:
                local.run(["sleep", "100357"], timeout_s=60)
            except HostError as exc:
                ended.append(str(exc))
                return

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    local.close()
    for thread in threads:
        thread.join(20)
    assert ended == ["localhost: the connection is closed"] * 4
    assert Local().run(["pgrep", "-f", "^sleep 100357"]).code == 1


def test_setup_lines_run_before_a_program_and_their_words_do_not_mix_with_its_own() -> None:
    argv = with_setup(["echo noise", "export A='it is $HOME'"], ["sh", "-c", 'printf %s "$A$1"', "sh", "-x 'y"])
    done = Local().run(argv)
    assert (done.stdout, done.stderr, done.code) == (b"it is $HOME-x 'y", b"noise\n", 0)
