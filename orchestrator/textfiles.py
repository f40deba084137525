"""Files that users write: read whole, if they can be what they are taken for."""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import SpecError


def read_text(name: str, most_bytes: int, what: str) -> str:
    """Return the text of the file *name*. Raises SpecError; *what* says what a file beyond *most_bytes* cannot be."""
    try:
        with Path(name).expanduser().open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as exc:
        raise SpecError(f"{name}: {exc.strerror}") from exc
    if len(content) > most_bytes:
        size = f"{most_bytes >> 20} MiB" if most_bytes >> 20 else f"{most_bytes >> 10} KiB"
        raise SpecError(f"{name}: larger than {size}; this is no {what}")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise SpecError(f"{name}: not UTF-8 text (byte {exc.start})") from exc
