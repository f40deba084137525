"""A person at a terminal, who is asked for passphrases."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import subprocess
import termios
import time
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.testbed.bed import Testbed

PASSPHRASE = "secret words"
_MOST_S = 60.0


def locked_key(cli: Cli, bed: Testbed) -> Path:
    """Return a key for all hosts of the test bed that has PASSPHRASE."""
    key = cli.folder / "locked"
    shutil.copy(bed.identity_file, key)
    key.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", PASSPHRASE, "-f", str(key)], check=True)
    return key


def at_terminal(cli: Cli, argv: "list[str]", answers: "list[bytes]") -> "tuple[int, bytes, bool]":
    """Answer each question for a passphrase; return exit code, what was shown, and whether typing shows again."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        argv, cwd=cli.folder, env=cli.environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as program:  # fmt: skip
        said, questions = b"", 0
        began = time.monotonic()
        while program.poll() is None or select.select([ours], [], [], 0)[0]:
            if time.monotonic() - began > _MOST_S:
                program.kill()
                pytest.fail(f"neither ended nor asked for more than {_MOST_S} s; it said {said!r}")
            if select.select([ours], [], [], 0.1)[0]:
                said += os.read(ours, 4096)
            # Answered when the terminal has stopped to show what is typed: what comes before that is thrown away.
            if said.count(b"passphrase of") > questions and not echoes(theirs):
                os.write(ours, answers[questions])
                questions += 1
        shows = echoes(theirs)
    os.close(ours)
    os.close(theirs)
    return program.returncode, said, shows


def echoes(terminal: int) -> bool:
    return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)
