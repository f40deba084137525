"""Python tracebacks in a log: the exception, and the last line of the user's own code on the way to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional

HEAD = "Traceback (most recent call last)"
_MOST_LINES = 400
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<name>\S+))?')
_EXCEPTION = re.compile(r"^(?P<type>(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)(?::\s*(?P<message>.*))?$")
_ALONE = re.compile(
    r"(?:^|[\s|\]>])(?:[a-z_]\w*\.)*(?P<type>(?:Arithmetic|Assertion|Attribute|Index|Key|Lookup|Name|NotImplemented|Overflow|Recursion|Type"
    r"|UnboundLocal|UnicodeDecode|UnicodeEncode|Value|ZeroDivision)Error): (?P<message>\S.*)"
)
_TYPES_WITHOUT_MESSAGE = re.compile(r"(?:Error|Exception|Interrupt|Exit|Iteration|Warning|Failure)$")
_NOT_THE_USERS = re.compile(
    r"site-packages|dist-packages|/lib(?:64)?/python\d|^<frozen|^<__array|/bin/(?:torchrun|msrun)"
)
_CHANGES = re.compile(
    r"[0-9]{2}:[0-9]{2}:[0-9]{2}(?:(?:\\\.|,)[0-9]+)?|(?<=:)[0-9]+(?=\\\])"
)  # time and line in a logger's mark
# What wraps an error of the framework or the system: its type alone does not make the user's code the cause.
_WRAPPING = frozenset({"RuntimeError", "Exception", "OSError", "SystemError", "CalledProcessError", "ChildFailedError"})


@dataclass(frozen=True)
class Traceback:
    type: str  # without its module
    message: str
    place: Optional[str]  # `train.py line 12, in main`: the last frame in the user's own code
    in_user_code: bool  # whether that frame raised it
    lines: int  # how many lines it takes in the log, with HEAD and the exception

    @property
    def tells_cause(self) -> bool:
        """Whether the program's own code is at fault, as far as type and frames tell."""
        return self.in_user_code or self.type not in _WRAPPING

    def __str__(self) -> str:
        text = f"{self.type}: {self.message}" if self.message else self.type
        return f"{text[:200]}{f' ({self.place})' if self.place else ''}"


def alone(line: str) -> Optional[Traceback]:
    """Return the exception that *line* tells of without its traceback; None unless its type is one of programs' own."""
    told = _ALONE.search(line)
    return Traceback(told["type"], told["message"].strip(), None, False, 1) if told is not None else None


def read(lines: "list[str]") -> Optional[Traceback]:
    """Return the traceback that begins in the first of *lines*; None where its exception does not follow.

    Lines of other ranks between its own are passed over where each line is marked with its rank.
    """
    mark = lines[0][: lines[0].find(HEAD)] if HEAD in lines[0] else ""
    mark = mark if mark.strip() else ""
    marked = re.compile(_CHANGES.sub(lambda found: re.sub("[0-9]+", r"\\d+", found.group()), re.escape(mark)))
    place: Optional[str] = None
    in_user_code = False
    for number, whole in enumerate(lines[1:_MOST_LINES], 1):
        begun = marked.match(whole)
        if begun is None:
            continue
        line = whole[begun.end() :].rstrip()
        frame = _FRAME.match(line)
        if frame is not None:
            in_user_code = _NOT_THE_USERS.search(frame["file"]) is None
            if in_user_code:
                name = f", in {frame['name']}" if frame["name"] else ""
                place = f"{frame['file']} line {frame['line']}{name}"
        elif line and not line[0].isspace():
            exception = _EXCEPTION.match(line)
            if exception is None or not (
                exception["message"] is not None or _TYPES_WITHOUT_MESSAGE.search(exception["type"])
            ):
                continue
            kind = exception["type"].rpartition(".")[2]
            if not kind[0].isupper() and "." not in exception["type"]:
                continue  # `train: ...` is a line of the program
            return Traceback(kind, (exception["message"] or "").strip(), place, in_user_code, number + 1)
    return None
