"""Make a small dataset by the generator of its layout, which runs as a process of its own: it is the model's code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from orchestrator.datasets import Layout
from orchestrator.errors import DatasetError, HostError
from orchestrator.supervisor.linux import die_with_parent

_PATIENCE_S = 2.0  # enough to clear up after an interrupt


def make_sample(layout: Layout, folder: Path, train: int, test: int, seed: int, say: "Callable[[str], None]") -> int:
    """Have the layout's sampler make *train* and *test* pictures in *folder*; return its exit code.

    What it prints goes where ours goes; its complaints go to *say*. Raises DatasetError for a layout without sampler,
    HostError where it cannot run with this Python.
    """
    if layout.sampler is None:
        raise DatasetError(f"nothing makes a sample of layout {layout.name}")
    words = [sys.executable, "-m", layout.sampler, f"--train={train}", f"--test={test}", f"--seed={seed}", "--"]
    with subprocess.Popen(
        [*words, str(folder)],
        env={**os.environ, "PYTHONSAFEPATH": "1"},  # no file of the folder we stand in becomes a module
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches it by us alone: a second one at once would disturb its clearing up
        preexec_fn=die_with_parent,
    ) as child:
        try:
            _, errors = child.communicate()
        except KeyboardInterrupt:
            while child.poll() is None:  # again and again: C code that is at work may swallow one
                child.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    child.wait(_PATIENCE_S)
            raise
    lines = errors.strip().splitlines()
    if child.returncode < 0:
        raise HostError(f"{layout.sampler} was killed by signal {-child.returncode}")
    if lines and lines[0].startswith("Traceback"):
        raise HostError(
            f"{layout.sampler} cannot run with {sys.executable}: {lines[-1]}; it comes with `pip install "
            "'ascendrun[cpu]'` on Python 3.10 to 3.12"
        )
    for line in lines:
        say(line)
    return child.returncode
