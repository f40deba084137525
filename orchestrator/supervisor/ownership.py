"""Who supervises a run: one process at a time, named in the file that it holds locked."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
from typing import NamedTuple, Optional

from orchestrator.supervisor.process import Identity, Place, read_stat, send_signal
from orchestrator.supervisor.rundir import RunDir

_RECORD_BYTES = 1024  # written in place and of one size, so that a full disk cannot keep an owner from naming itself


class Owner(NamedTuple):
    """The process that supervises a run, or did so last."""

    identity: Identity
    place: Place

    def is_alive(self) -> bool:
        """Tell whether it runs; only one in the same place can be asked."""
        return self.place == Place.here() and self.identity.is_alive()


def take(run_dir: RunDir) -> Optional[int]:
    """Take the run for this process; return the held lock, or None where another process holds it. Raises OSError."""
    lock = os.open(run_dir.supervisor_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a POSIX lock: no fork of ours inherits it
    except BlockingIOError:
        os.close(lock)
        return None
    identity = Identity.of(os.getpid())
    assert identity is not None, "we are alive"
    os.pwrite(lock, json.dumps([identity, Place.here()]).ljust(_RECORD_BYTES).encode(), 0)
    return lock


def owner(run_dir: RunDir) -> Optional[Owner]:
    """Return who supervises the run or did so last; None where nobody ever did."""
    try:
        identity, place = json.loads(run_dir.supervisor_lock.read_bytes())
        return Owner(Identity(*identity), Place(*place))
    except (OSError, ValueError, TypeError):
        return None


def wake(run_dir: RunDir) -> bool:
    """Let whoever supervises the run go on if somebody has stopped it (SIGSTOP); tell whether that was so.

    It holds the run, so nobody else can take it over.
    """
    last = owner(run_dir)
    if last is None or last.place != Place.here():
        return False
    found = read_stat(last.identity.pid)
    stopped = found is not None and found.start_ticks == last.identity.start_ticks and found.state == "T"
    return stopped and send_signal(last.identity.pid, signal.SIGCONT)


def may_adopt(run_dir: RunDir) -> bool:
    """Tell whether this process may take the run over from an owner that is gone.

    Not where it lives in another place, whose processes cannot be seen from here; a machine that was booted anew has
    none of them left. And not where somebody else could have written what would then be run and signalled as us.
    """
    last = owner(run_dir)
    here = Place.here()
    if (
        last is not None
        and last.place != here
        and not (last.place.boot != here.boot and last.place.is_same_machine(here))
    ):
        return False
    return is_ours(run_dir)


def is_ours(run_dir: RunDir) -> bool:
    """Tell whether nobody but this user can have written what a run has us do, here and on its hosts."""
    try:
        acted_on = run_dir.hosts if run_dir.hosts.exists() else run_dir.host_plan
        facts = [os.stat(run_dir.root), os.lstat(acted_on), os.lstat(run_dir.processes)]
    except OSError:
        return False  # a collected copy: its ranks are another folder's
    writable_by_others = stat.S_IWGRP | stat.S_IWOTH
    return all(fact.st_uid == os.geteuid() and not fact.st_mode & writable_by_others for fact in facts)
