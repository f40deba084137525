"""The runs of this machine: where their folders lie, and what is written in them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from orchestrator.errors import NameTakenError, RunDirError, RunNotFoundError, SpecError, nearest
from orchestrator.plan import RunPlan
from orchestrator.supervisor.rundir import PLAN, RunDir

MIN_FREE_BYTES = 16 << 20  # a run writes its plan, journal and logs at least


@dataclass(frozen=True)
class Run:
    """A run on disk: its plan, and where it lies."""

    plan: RunPlan
    run_dir: RunDir

    @classmethod
    def read(cls, root: Path) -> "Run":
        """Read the run in the folder *root*. Raises RunNotFoundError where there is none."""
        run_dir = RunDir(root.absolute())
        try:
            plan = RunPlan.from_json(run_dir.plan.read_text(encoding="utf-8"))
        except FileNotFoundError as exc:
            raise RunNotFoundError(f"{root}: no run lies there (no {PLAN} in it)") from exc
        except OSError as exc:
            raise RunNotFoundError(f"{exc.filename}: {exc.strerror}") from exc
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, SpecError) as exc:
            raise RunNotFoundError(f"{run_dir.plan}: damaged, or of a newer ascendrun ({exc})") from exc
        return cls(plan, run_dir)


class Store:
    """The index of runs: a folder of links, one a run, each named as the run and leading to its folder.

    The run folders are the truth; a link whose folder was removed is forgotten.
    """

    def __init__(self, home: Path) -> None:
        self.links = home / "runs"

    @classmethod
    def of_user(cls) -> "Store":
        """Return the store in `$ASCENDRUN_HOME`, or where the XDG base directories put such state."""
        home = os.environ.get("ASCENDRUN_HOME")
        state = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
        return cls(Path(home) if home else Path(state) / "ascendrun")

    def add(self, name: str, root: Path) -> None:
        """Make the folder *root* for a new run *name* and enter it in the index.

        Raises NameTakenError where the name or the folder is taken; RunDirError where the folder cannot
        be made or its disk is full. Nothing is left behind then.
        """
        with self._locked():
            self._add(name, root)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time change the index: a link without a folder is stale, or just being made."""
        try:
            self.links.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self.links, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise self._cannot_write(exc) from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _cannot_write(self, exc: OSError) -> RunDirError:
        return RunDirError(
            f"cannot write the index of runs {self.links}: {exc.strerror} (set ASCENDRUN_HOME to another folder)"
        )

    def _add(self, name: str, root: Path) -> None:
        link = self.links / name
        try:
            if link.is_symlink() and not (link / PLAN).exists() and not link.is_dir():
                link.unlink()  # its folder was removed by hand
            link.symlink_to(root)
        except FileExistsError as exc:
            raise NameTakenError(
                f"a run named '{name}' exists already, in {os.path.realpath(link)}; choose another --name"
            ) from exc
        except OSError as exc:
            raise self._cannot_write(exc) from exc
        try:
            _make_folder(root)
        except BaseException:
            link.unlink()
            raise

    def forget(self, name: str, root: Path) -> None:
        """Take back an `add` whose run never started: the folder and the entry."""
        import shutil

        shutil.rmtree(root, ignore_errors=True)
        (self.links / name).unlink(missing_ok=True)

    def recent(self, most: int) -> "list[Run]":
        """Return the newest runs that still have a folder, newest first."""
        found: "list[Run]" = []
        for name in self._names_by_age():
            if len(found) == most:
                break
            try:
                found.append(Run.read(Path(os.path.realpath(self.links / name))))
            except RunNotFoundError:
                continue  # removed by hand, or on a disk that is not there now
        return found

    def knows(self, name: str) -> bool:
        return os.sep not in name and (self.links / name).is_symlink()

    def find(self, run: Optional[str]) -> Run:
        """Return the run of that name or folder; None means the newest. Raises RunNotFoundError."""
        if run is None:
            newest = self.recent(1)
            if not newest:
                raise RunNotFoundError("there are no runs yet; `ascendrun launch` starts one")
            return newest[0]
        if self.knows(run):
            return Run.read(Path(os.path.realpath(self.links / run)))
        if os.sep in run or Path(run).is_dir():
            return Run.read(Path(run))
        raise RunNotFoundError(f"no run named '{run}'{nearest(run, self._names_by_age())}")

    def _names_by_age(self) -> "list[str]":
        try:
            with os.scandir(self.links) as entries:
                aged = [
                    (entry.stat(follow_symlinks=False).st_mtime_ns, entry.name)
                    for entry in entries
                    if entry.is_symlink()
                ]
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise RunDirError(f"cannot read the index of runs {self.links}: {exc.strerror}") from exc
        return [name for _, name in sorted(aged, reverse=True)]


def run_around(path: Path) -> Optional[Run]:
    """Return the run or collected folder that the file *path* lies in.

    A plan says which program to start: one that somebody else left further up, in /tmp for instance, is not followed.
    """
    for folder in path.parents:
        with suppress(OSError, RunNotFoundError):  # no file of that name, or another program's
            if (folder / PLAN).stat().st_uid == os.geteuid():
                return Run.read(folder)
    return None


def _make_folder(root: Path) -> None:
    try:
        os.makedirs(root.parent, exist_ok=True)
    except OSError as exc:  # FileExistsError too: something on the way is no folder
        raise RunDirError(
            f"cannot make the folder {root.parent} for the run: {exc.strerror}; choose another --run-dir"
        ) from exc
    try:
        root.mkdir(mode=0o755)
    except FileExistsError as exc:
        raise NameTakenError(f"{root} exists already; choose another --name or --run-dir") from exc
    except OSError as exc:
        raise RunDirError(f"cannot make the run folder {root}: {exc.strerror}; choose another --run-dir") from exc
    disk = os.statvfs(root)
    free = disk.f_bavail * disk.f_frsize
    if free < MIN_FREE_BYTES:
        root.rmdir()
        raise RunDirError(
            f"the disk of {root.parent} is full: {free / 1e6:.1f} MB free, a run needs at least "
            f"{MIN_FREE_BYTES / 1e6:.0f} MB; choose another --run-dir"
        )
