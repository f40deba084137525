"""The one owner of every file name in a run folder."""

from __future__ import annotations

import os
from pathlib import Path

PLAN = "plan.json"


class RunDir:
    """The folder of a run on one host.

    ```
    plan.json              the whole run, as launched
    rank_table.json        where the ranks meet by a rank table
    host_plan.json         what this host's supervisor acts on
    hosts.json             where a run on far hosts lives; then journal.jsonl is the controller's
    journal.jsonl          one event a line, only appended, by the supervisor alone
    supervisor.lock        held by the supervisor, and says who that is
    supervisor.log
    health.jsonl           what this host's devices and memory were like, one sample a line
    watched                changed while somebody follows the journal from another machine
    processes/             what the keepers write: rank-3.started.json, rank-3.exited.json
    requests/              what others ask of the supervisor: stop.json; of the controller: restart.json
    train_parallel3/       work folder of rank 3: env.log train.log progress.jsonl, and stack.txt of one that hung
    scheduler/             the same for MindSpore's scheduler process
    hosts/NAME/            brought here from a far host: its journal, what its supervisor logged
    attempts/2/            the run folder of an attempt, of a run that may be restarted
    code.tar.gz            the user's program as it was sent to hosts that do not share its folder
    code/                  the user's program, on a host that does not share its folder
    evals/NAME/            the run folder of each evaluation
    ```
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def __repr__(self) -> str:
        return f"RunDir({str(self.root)!r})"

    @property
    def plan(self) -> Path:
        return self.root / PLAN

    @property
    def rank_table(self) -> Path:
        return self.root / "rank_table.json"

    @property
    def host_plan(self) -> Path:
        return self.root / "host_plan.json"

    @property
    def hosts(self) -> Path:
        return self.root / "hosts.json"

    def of_host(self, name: str) -> Path:
        """Return the folder for what every far host has under the same name."""
        return self.root / "hosts" / name

    @property
    def code(self) -> Path:
        return self.root / "code"

    @property
    def sent_code(self) -> Path:
        return self.root / "code.tar.gz"

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def supervisor_lock(self) -> Path:
        return self.root / "supervisor.lock"

    @property
    def watched(self) -> Path:
        return self.root / "watched"

    @property
    def supervisor_log(self) -> Path:
        return self.root / "supervisor.log"

    @property
    def health(self) -> Path:
        return self.root / "health.jsonl"

    @property
    def processes(self) -> Path:
        return self.root / "processes"

    @property
    def requests(self) -> Path:
        return self.root / "requests"

    @property
    def stop_request(self) -> Path:
        return self.requests / "stop.json"

    @property
    def restart_request(self) -> Path:
        return self.requests / "restart.json"

    @property
    def evals(self) -> Path:
        return self.root / "evals"

    def started(self, process: str) -> Path:
        return self.processes / f"{process}.started.json"

    def exited(self, process: str) -> Path:
        return self.processes / f"{process}.exited.json"

    def work_folder(self, folder: str) -> Path:
        return self.root / folder

    def log(self, folder: str, log: str) -> Path:
        return self.root / folder / log

    def env_log(self, folder: str) -> Path:
        return self.root / folder / "env.log"

    def progress(self, folder: str) -> Path:
        return self.root / folder / "progress.jsonl"

    def stack(self, folder: str) -> Path:
        return self.root / folder / "stack.txt"

    def make_folders(self, work_folders: "list[str]") -> None:
        """Make the folders of a new run below an existing root. Raises OSError."""
        for folder in (self.processes, self.requests, *(self.root / name for name in work_folders)):
            folder.mkdir(mode=0o755)


def write_atomically(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write *text* so that a reader sees the old file, the new file, or none: never half of one.

    Raises OSError; the temporary file is gone then.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}"  # ours alone: one process writes one file at a time
    temporary.unlink(missing_ok=True)  # what a killed process of the same number left
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
