"""What travels to far hosts: our supervisor as one archive, and the code of the job."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import orchestrator
from orchestrator.errors import SpecError

# The supervisor is whole by itself, with the parsers of what it asks the devices; the others look at datasets and
# hosts, and need it and the standard library only.
_TRAVELLERS = ("__init__.py", "errors.py", "datasets.py", "records.py", "farside.py", "checkup.py", "allreduce.py")
_FOLDER = "folder"
OLDEST_PYTHON = (3, 9)  # that runs our supervisor
# Any Python can read it, and tell that it is too old to read the rest.
_MAIN = f"""\
import sys
if sys.version_info < {OLDEST_PYTHON}:
    sys.exit("its Python is %d.%d.%d, and ours needs {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or later; name one as "
             "`python:` in a hosts file" % tuple(sys.version_info[:3]))
from orchestrator.farside import main
sys.exit(main(sys.argv[1:]))
"""
_MOST_CODE_BYTES = 64 << 20
_NOT_CODE = {"__pycache__", ".git", ".venv", "venv", "node_modules", "runs", "collected"}


@dataclass(frozen=True)
class Archive:
    """Files that far hosts keep by their content, unpacked: Python then compiles them only once."""

    name: str  # of the folder there
    content: bytes  # a gzip-compressed tar


def supervisor_archive() -> Archive:
    """Return what Python 3.9 or later runs, as `python FOLDER`, on a host that has nothing of ours."""
    root = Path(orchestrator.__file__).parent
    files = [root / name for name in _TRAVELLERS]
    files += [path for part in ("supervisor", "probes") for path in sorted((root / part).glob("*.py"))]
    found = {f"orchestrator/{path.relative_to(root)}": path.read_bytes() for path in files}
    return _archive("supervisor", {**found, "__main__.py": _MAIN.encode()})


def module_archive(module: str) -> Archive:
    """Return the package that *module* belongs to, for a folder that Python imports from. Raises SpecError."""
    top = module.partition(".")[0]
    spec = importlib.util.find_spec(top)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise SpecError(f"module {module}: its package {top} is not here to be sent along")
    return _archive(top, {f"{top}/{path}": content for path, content in _files(Path(folders[0])).items()})


def folder_archive(folder: Path) -> Archive:
    """Return a user's own folder, for hosts that do not share it. Raises SpecError."""
    return _archive(_FOLDER, _files(folder))


def stored(path: Path) -> Archive:
    """Return the content of a `folder_archive` that was written to *path*. Raises OSError."""
    return _named(_FOLDER, path.read_bytes())


def _files(folder: Path) -> "dict[str, bytes]":
    found: "dict[str, bytes]" = {}
    size = 0
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(one for one in folders if one not in _NOT_CODE and not one.startswith("."))
        for name in sorted(names):
            path = Path(where) / name
            if name.endswith(".pyc") or name.startswith(".") or path.is_symlink() or not path.is_file():
                continue
            size += path.stat().st_size
            if size > _MOST_CODE_BYTES:
                raise SpecError(
                    f"{folder}: more than {_MOST_CODE_BYTES >> 20} MiB to send to hosts that do not share it; "
                    "put the program into a folder of its own, or on a file system that they share"
                )
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def _archive(stem: str, files: "dict[str, bytes]") -> Archive:
    buffer = io.BytesIO()
    # equal content makes an equal archive: no names, no times
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return _named(stem, buffer.getvalue())


def _named(stem: str, content: bytes) -> Archive:
    return Archive(f"{stem}-{hashlib.sha256(content).hexdigest()[:16]}", content)
