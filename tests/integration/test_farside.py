"""What runs on a far host, run here."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from orchestrator.supervisor.hostplan import HostPlan, ProcessPlan

MAIN = "import sys; from orchestrator.farside import main; sys.exit(main(sys.argv[1:]))"


def test_it_loses_no_byte_of_what_it_is_told_before_it_has_answered(tmp_path: Path) -> None:
    folder = str(tmp_path / "r")
    plan = HostPlan("r-1", "node1", (ProcessPlan(0, ("true",), {}, "train", "train.log"),), 1.0)
    # An answer that fills the pipe: we tell it to begin while it is still giving it.
    asked = {"folder": folder, "modules": [f"no-such-package-{number:040}" for number in range(1500)], "ports": 2}
    told = {"host_plan": asdict(plan), "unpack": None, "rank_table": None}
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, "launch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as host:
        assert host.stdin and host.stdout and host.stderr
        host.stdin.write(json.dumps(asked).encode() + b"\n")
        host.stdin.flush()
        select.select([host.stdout], [], [])
        host.stdin.write(json.dumps(told).encode() + b"\n")
        host.stdin.flush()  # and it stays open, as the connection does
        lines = host.stdout.read().splitlines()
        assert host.stderr.read() == b""
    facts, begun, *events = lines
    assert (json.loads(facts)["folder"], begun) == (folder, b"")
    assert json.loads(events[-1])["kind"] == "run_finished"
