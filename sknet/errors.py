"""What can go wrong, and the exit code of each.

SknetError             1  the run failed: a full disk, a lost peer
├── DivergedError      1  the loss is no number any more
└── InputError         2  what the user gave is wrong: an argument, the dataset, a checkpoint, the environment
"""

from __future__ import annotations


class SknetError(Exception):
    """The run could not go on. The message is one line for the user."""

    exit_code = 1


class DivergedError(SknetError):
    """The loss is not finite. Every rank sees it at the same step."""


class InputError(SknetError):
    """What the user gave cannot be used. Nothing was started or overwritten."""

    exit_code = 2
