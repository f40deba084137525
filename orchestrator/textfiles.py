"""Files that users write: read whole, if they can be what they are taken for."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.errors import SpecError

MARK = "\ufeff"  # that Windows sets before a text


def read_text(name: str, most_bytes: int, what: str) -> str:
    """Return the text of the file *name*, or with `-` of standard input.

    Raises SpecError; *what* says what a file beyond *most_bytes* cannot be.
    """
    try:
        if name == "-":
            if sys.stdin is None:
                raise SpecError("cannot read standard input: it is closed")
            content = sys.stdin.buffer.read(most_bytes + 1)
        else:
            with Path(name).expanduser().open("rb") as file:
                content = file.read(most_bytes + 1)
    except (OSError, ValueError, RuntimeError) as exc:  # a NUL character; a home that nobody has
        raise SpecError(f"{name}: {getattr(exc, 'strerror', None) or exc}") from exc
    if len(content) > most_bytes:
        size = f"{most_bytes >> 20} MiB" if most_bytes >> 20 else f"{most_bytes >> 10} KiB"
        raise SpecError(f"{name}: larger than {size}; this is no {what}")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise SpecError(f"{name}:{line}: not UTF-8 text (byte {content[exc.start]:#04x}); this is no {what}") from exc
