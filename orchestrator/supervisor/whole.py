"""Whether a file is what was told of it when it was written."""

from __future__ import annotations

import os
from typing import Any, Mapping, Optional

from orchestrator.supervisor.progress import open_regular

_BLOCK = 1 << 20


def problem_of(told: Mapping[str, Any]) -> Optional[str]:
    """Say what is wrong with the file `path`, which should have `bytes` and `sha256` where these are told.

    None: nothing is.
    """
    try:
        with open_regular(told["path"]) as file:
            size = os.fstat(file.fileno()).st_size
            wanted = told.get("bytes")
            if not size:
                return "it is empty"
            if wanted is not None and size != wanted:
                return f"it has {size:,} bytes and was written with {wanted:,}"
            if told.get("sha256") is None:
                return None
            import hashlib  # 3 ms that a launch need not spend

            digest = hashlib.sha256()
            while True:
                block = file.read(_BLOCK)
                if not block:
                    break
                digest.update(block)
    except OSError as exc:
        return exc.strerror or str(exc)
    return None if digest.hexdigest() == told["sha256"] else "its bytes are not those that were written"
