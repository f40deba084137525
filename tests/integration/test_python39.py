"""The orchestrator alone runs on Python 3.9, as old Ascend images have it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Optional

import pytest

from tests.conftest import SHARED

ROOT = Path(__file__).resolve().parents[2]


def find_python39() -> Optional[str]:
    """Return a Python 3.9 that runs: from PATH, or one that pyenv keeps."""
    candidates = [shutil.which("python3.9")]
    if shutil.which("pyenv"):
        kept = subprocess.run(["pyenv", "whence", "--path", "python3.9"], capture_output=True, text=True)
        candidates += kept.stdout.split()
    for candidate in candidates:
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
            return candidate
    return None


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.version_info[:2] == (3, 9), reason="this is the run on Python 3.9")
def test_the_orchestrator_passes_its_tests_on_python_39(tmp_path):
    python = find_python39()
    if python is None:
        pytest.skip("no Python 3.9 on this machine")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    bin_dir = tmp_path / "venv/bin"
    # A copy, as a user gets it: `pip install .`, not editable.
    shutil.copytree(
        ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(".*", "runs", "collected", "demo-data", "*.egg-info")
    )
    subprocess.run(
        [bin_dir / "pip", "install", "--quiet", tmp_path / "source[stacks]", "pytest", "pytest-timeout", "hypothesis"],
        check=True,
    )
    # The tests away from the sources, so that they meet the installed package.
    shutil.copytree(ROOT / "tests", tmp_path / "checkout/tests")
    if SHARED.is_dir():
        (tmp_path / "shared").symlink_to(SHARED)  # beside the tests, where they look for it
    chosen = ["tests/orchestrator", "tests/integration/test_bad_input.py", "tests/integration/test_local_runs.py"]
    done = subprocess.run(
        [bin_dir / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen],
        cwd=tmp_path / "checkout",
        env={**os.environ, "PYTEST_ADDOPTS": "--timeout=300"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
