"""What a rank does that is asked to end: in a process of its own, whose steps are made up."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

PROGRAM = """
import sys, time
from sknet.leaving import Notice

notice = Notice(lambda: print("written", flush=True))

def step(seconds):
    with notice.step():
        time.sleep(seconds)
    print("asked" if notice.asked else "step", flush=True)

{steps}
"""


@contextmanager
def program(steps: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(steps=steps)], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def words(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_step_in_which_the_rank_is_asked_to_end_goes_on_to_its_end(number: signal.Signals) -> None:
    asked_in_a_step = """
step(0)
with notice.step():
    print("in", flush=True)
    while not notice.asked:
        time.sleep(0.01)
    print("out", flush=True)
notice.heed()
"""
    with program(asked_in_a_step) as process:
        assert words(process, 2) == ["step", "in"]
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
        assert (process.returncode, output, errors) == (0, "out\n", "")


def test_who_is_asked_while_a_step_does_not_end_gives_up_after_what_must_be_whole_is_written() -> None:
    with program("step(0); step(0); print('hanging', flush=True)\nstep(60)") as process:
        assert words(process, 3) == ["step", "step", "hanging"]
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (143, "written\n")
    assert errors == (
        "sknet.train: asked to end, but this step takes longer than 1.0 s: a rank is gone, or hangs; ended without a "
        "checkpoint of it\n"
    )


def test_a_step_that_takes_as_long_as_the_others_is_waited_for() -> None:
    with program("step(0); step(1.5); print('long', flush=True)\nstep(1.5); step(1.5)") as process:
        assert words(process, 3) == ["step", "step", "long"]
        process.send_signal(signal.SIGTERM)
        assert words(process, 2) == ["asked", "asked"]
        assert process.wait(30) == 0


def test_what_is_done_between_steps_may_take_long() -> None:
    with program("step(0); step(0); print('writing', flush=True)\ntime.sleep(2)") as process:
        assert words(process, 3) == ["step", "step", "writing"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_another_sigterm_changes_nothing_and_another_interrupt_ends_at_once() -> None:
    with program("step(0)\nwhile True: step(0.1)") as process:
        assert words(process, 1) == ["step"]
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
            while words(process, 1) != ["asked"]:
                pass
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == -signal.SIGINT
        assert process.stderr is not None
        assert process.stderr.read().splitlines()[-1] == "KeyboardInterrupt"


def test_before_the_first_step_has_ended_sigterm_ends_the_process() -> None:
    with program("print('compile', flush=True)\nstep(60)") as process:
        assert words(process, 1) == ["compile"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM


def test_heeded_a_signal_cannot_end_the_process_in_its_last_moments() -> None:
    program_ends = (
        "step(0)\nnotice.heed()\nimport atexit; atexit.register(lambda: (print('exit', flush=True), time.sleep(0.5)))"
    )
    with program(program_ends) as process:
        assert words(process, 2) == ["step", "exit"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
