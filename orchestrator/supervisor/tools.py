"""Ask the tools of Ascend's driver, wherever they lie and whatever becomes of them."""

from __future__ import annotations

import os
import shutil
from typing import Any, Dict, Sequence

_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/local/Ascend/driver/tools")
_LIBRARIES = ("/usr/local/Ascend/driver/lib64/common", "/usr/local/Ascend/driver/lib64/driver")
_MOST_LETTERS = 1 << 18  # of an answer
SILENT: Dict[str, Any] = {"code": None, "missing": True, "text": ""}  # of a tool that is not there


def run_tool(name: str, words: Sequence[str], timeout_s: float) -> Dict[str, Any]:
    """Return how a tool ended and what it said; `code` None: it is not there (`missing`), or said nothing in time."""
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_FOLDERS]))
    if path is None:
        return dict(SILENT)
    import subprocess  # 3 ms that a launch without devices need not spend

    libraries = [one for one in (*_LIBRARIES, os.environ.get("LD_LIBRARY_PATH", "")) if one]
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            [path, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return {"code": None, "missing": False, "text": ""}
    except OSError as exc:
        return {"code": None, "missing": True, "text": f"{path}: {exc.strerror}"}
    return {"code": done.returncode, "missing": False, "text": done.stdout.decode("utf-8", "replace")[:_MOST_LETTERS]}
