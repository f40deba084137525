"""What can go wrong, and the exit code of each.

SknetError             1  the run failed: a full disk, ranks that could not meet, a scheduler whose rank died
├── DivergedError      1  the loss is no number any more
├── AskedToEndError   75  SIGTERM or Ctrl-C: ended after a whole step, with a checkpoint of it (EX_TEMPFAIL)
└── InputError         2  what the user gave is wrong: an argument, the dataset, a checkpoint, the environment

SIGTERM where there is nothing to keep yet ends the process as it does any; where a step that other ranks should join
does not end, with code 143. A peer lost in the midst of training is none of these: MindSpore's own RuntimeError ends
the process, with code 1.
"""

from __future__ import annotations


class SknetError(Exception):
    """The run could not go on. The message is one line for the user."""

    exit_code = 1


class DivergedError(SknetError):
    """The loss is not finite. Every rank sees it at the same step."""


class AskedToEndError(SknetError):
    """All ranks ended after the same step, because one was asked to. A resumed run goes on from there."""

    exit_code = 75


class InputError(SknetError):
    """What the user gave cannot be used. Nothing was started or overwritten."""

    exit_code = 2
