"""The exception at the end of a traceback, and whose code raised it."""

from __future__ import annotations

import pytest

from orchestrator.diagnosis.tracebacks import HEAD, alone, read

USER = ['  File "/job/train.py", line 12, in main', "    step(batch)"]
LIBRARY = ['  File "/opt/py/lib/python3.10/site-packages/torch/nn/x.py", line 9, in forward', "    return f(x)"]


def test_the_last_frame_of_the_users_code_is_the_place() -> None:
    told = read([f"{HEAD}:", *USER, *LIBRARY, "RuntimeError: it does not fit", "more"])
    assert told is not None
    assert (told.type, told.message) == ("RuntimeError", "it does not fit")
    assert told.place == "/job/train.py line 12, in main"
    assert not told.in_user_code
    assert not told.tells_cause
    assert told.lines == 6


@pytest.mark.parametrize(
    ("lines", "tells"),
    [
        ([*USER, "RuntimeError: mine"], True),
        ([*USER, *LIBRARY, "TypeError: not a tensor"], True),
        ([*USER, *LIBRARY, "torch.distributed.elastic.ChildFailedError: x"], False),
        ([*LIBRARY, "OSError: x"], False),
    ],
)
def test_an_exception_tells_the_cause_if_its_type_or_the_raising_code_does(lines: "list[str]", tells: bool) -> None:
    told = read([f"{HEAD}:", *lines])
    assert told is not None
    assert told.tells_cause == tells


def test_lines_of_other_ranks_between_are_passed_over() -> None:
    mine = [f"[rank1]: {line}" for line in (f"{HEAD}:", *USER, "KeyError: 'a'")]
    other = [f"[rank2]: {line}" for line in (f"{HEAD}:", *USER, "IndexError: b")]
    mixed = [line for pair in zip(mine, other) for line in pair]
    told = read(mixed)
    assert told is not None
    assert (told.type, told.message) == ("KeyError", "'a'")


@pytest.mark.parametrize("end", [[], ["  still going"], ["done"], ["train: leaving"], [""]])
def test_a_traceback_without_its_exception_is_none(end: "list[str]") -> None:
    assert read([f"{HEAD}:", *USER, *end]) is None


@pytest.mark.parametrize("name", ["AssertionError", "KeyboardInterrupt", "my.own.Failure", "StopIteration"])
def test_an_exception_may_have_no_message(name: str) -> None:
    told = read([f"{HEAD}:", *USER, name])
    assert told is not None
    assert (told.type, told.message) == (name.rpartition(".")[2], "")


def test_a_loggers_mark_may_tell_another_time_and_line_on_each_line() -> None:
    marks = ("ERROR 01-02 03:04:05 [core.py:8] ", "ERROR 01-02 03:04:06 [core.py:12] ")
    body = [f"{HEAD}:", *USER, "KeyError: 'a'"]
    told = read([f"(Worker pid=71) {marks[number % 2]}{line}" for number, line in enumerate(body)])
    assert told is not None
    assert (told.type, told.place) == ("KeyError", "/job/train.py line 12, in main")


def test_a_mark_of_another_process_is_not_the_same() -> None:
    mine = [f"(Worker pid=71) 03:04:05 {line}" for line in (f"{HEAD}:", *USER)]
    assert read([*mine, "(Worker pid=72) 03:04:05 KeyError: 'a'"]) is None


@pytest.mark.parametrize("before", ["", "[rank3]: ", "(Worker pid=1) ERROR 01-02 03:04:05 [x.py:1] ", "   builtins."])
def test_an_exception_of_a_programs_own_is_known_without_its_traceback(before: str) -> None:
    told = alone(f"{before}IndexError: list index out of range")
    assert told is not None
    assert (told.type, told.message, told.tells_cause) == ("IndexError", "list index out of range", True)


@pytest.mark.parametrize("line", ["RuntimeError: x", "raise ValueError('a: b')", "NoValueError: x", "ValueError: ", ""])
def test_what_wraps_or_is_no_exception_tells_nothing_alone(line: str) -> None:
    assert alone(line) is None
