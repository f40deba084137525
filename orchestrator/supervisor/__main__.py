"""`python -m orchestrator.supervisor RUN_FOLDER`: supervise in the foreground of this process."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.supervisor.main import supervise
from orchestrator.supervisor.rundir import RunDir

if len(sys.argv) != 2:
    sys.exit("usage: python -m orchestrator.supervisor RUN_FOLDER")
sys.exit(supervise(RunDir(Path(sys.argv[1]).resolve()), ready=lambda: None))
