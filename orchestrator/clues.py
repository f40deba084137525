"""Clue: what the last words of a rank say of its end: a cause of its own, or the loss of its peers. Pure."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import NamedTuple, Optional


class Kind(enum.Enum):
    """What a line tells. All but PEER are causes of the rank's own."""

    PEER = "peer"  # a collective or a connection broke: another rank's end was felt here
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    PORT_TAKEN = "port_taken"
    IMPORT_ERROR = "import_error"
    USER_ERROR = "user_error"  # the program or its arguments are wrong, and will be wrong again
    NAN = "nan"
    EXCEPTION = "exception"


class Clue(NamedTuple):
    kind: Kind
    line: str


_EXCEPTION = re.compile(
    r"^(?:[\w.]+\.)?(?P<name>[A-Z]\w*(?:Error|Exception|Interrupt|Iteration|Exit|Expired))\b(?P<text>.*)"
)
_NOISE = re.compile(r"^\[(?:WARNING|INFO|DEBUG)\]")
_ENVIRONMENT = (
    (Kind.DISK_FULL, re.compile(r"No space left on device|Disk quota exceeded|Errno 28\b|\bENOSPC\b")),
    (
        Kind.OUT_OF_MEMORY,
        re.compile(
            r"\bMemoryError\b|std::bad_alloc|Cannot allocate memory|\bout of memory\b|\bOOM\b|Memory not enough", re.I
        ),
    ),
    (
        Kind.PORT_TAKEN,
        re.compile(r"Address already in use|\bEADDRINUSE\b|[Pp]ort \S+ is (?:already )?in use"),
    ),
)
# Collectives and connections that broke. Sources: what MindSpore's CPU ring and its cluster client log when a peer is
# gone; CANN's error codes EI0002 (notify wait) and EI0006 (socket); the words of sockets, Gloo and NCCL.
_PEER = re.compile(
    r"Launch kernel failed: \S*(?:All|Reduce|Broadcast|Barrier|Send|Recv)"
    r"|wait (?:sending|receiving) .*failed"
    r"|(?:AllReduce|AllGather|ReduceScatter|Broadcast|Barrier|AllToAll)\w* launch failed"
    r"|Callback on exception is called|Kill this process with SIGTERM"
    r"|reconnect to the meta server|heartbeat message to meta server|timed out node|is timed out\. It may exit"
    r"|\bEI000[26]\b|HCCL\w*.*time ?d? ?out|collective.*(?:time ?d? ?out|failed)|(?:time ?d? ?out|failed).*collective"
    r"|Connection (?:reset|refused|closed|aborted)|Broken pipe|[Pp]eer closed|closed by (?:remote )?peer"
    r"|Connection(?:Reset|Refused|Aborted)Error|BrokenPipeError"
    r"|remote process (?:has )?(?:exited|terminated)|NCCL.*(?:remote|timeout)",
    re.I,
)
# The only warnings that tell of an end: ranks that are about to meet warn of refused connections and try again.
_GIVEN_UP = re.compile(r"Callback on exception is called|Kill this process with SIGTERM")
_IMPORT = frozenset({"ImportError", "ModuleNotFoundError"})
_WRONG_PROGRAM = frozenset({"SyntaxError", "IndentationError", "TabError", "NameError", "UnboundLocalError"})
# Wrong before the first step, they will be wrong again; later they may come of what was read.
_WRONG_AT_START = frozenset({"TypeError", "AttributeError", "KeyError", "FileNotFoundError", "NotADirectoryError"})
_ASKED = frozenset({"KeyboardInterrupt", "SystemExit"})  # how Python tells that it was asked to end
_OF_THE_SYSTEM = frozenset({"RuntimeError", "OSError", "TimeoutError"})  # how frameworks raise what C++ told them
_NAN = re.compile(
    r"\bloss\b.{0,12}\b(?:nan|inf)\b|\bloss is not (?:finite|a number)|\bInvalid loss\b|\bdiverged\b", re.I
)


def clue_of(lines: Sequence[str], *, code: Optional[int] = None, made_steps: bool = False) -> Optional[Clue]:
    """Return what *lines*, the last words of a rank, say of its end; None where they say nothing of it.

    *code*: its exit code, where it had one; *made_steps*: whether it had begun to train.
    """
    words = [line.strip() for line in lines if line.strip()]
    sober = [line for line in words if not _NOISE.match(line)]
    for kind, pattern in _ENVIRONMENT:
        if found := _last(pattern, sober):
            return Clue(kind, found)
    peer = _last(_PEER, sober)
    raised = [match for line in sober if (match := _EXCEPTION.match(line)) and match["name"] not in _ASKED]
    if raised:
        last = raised[-1]
        if peer is not None and (_PEER.search(last.string) or last["name"] in _OF_THE_SYSTEM):
            return Clue(Kind.PEER, peer)
        return Clue(_kind_of(last, made_steps), last.string)
    if peer := peer or _last(_GIVEN_UP, words):
        return Clue(Kind.PEER, peer)
    if code == 2 and sober:
        return Clue(Kind.USER_ERROR, sober[-1])  # by convention: the arguments are wrong, and the last line says how
    if code and (found := _last(_NAN, sober)):
        return Clue(Kind.NAN, found)
    return None


def _last(pattern: "re.Pattern[str]", lines: Sequence[str]) -> Optional[str]:
    return next((line for line in reversed(lines) if pattern.search(line)), None)


def _kind_of(raised: "re.Match[str]", made_steps: bool) -> Kind:
    name = raised["name"]
    if name in _IMPORT:
        return Kind.IMPORT_ERROR
    if name in _WRONG_PROGRAM or (name in _WRONG_AT_START and not made_steps):
        return Kind.USER_ERROR
    return Kind.NAN if _NAN.search(raised.string) else Kind.EXCEPTION
