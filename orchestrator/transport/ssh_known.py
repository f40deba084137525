"""Host keys: which ones a known_hosts file has for a host, and adding one. Format: sshd(8), SSH_KNOWN_HOSTS."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import HostError

_MOST_BYTES = 64 << 20
_adding = threading.Lock()


@dataclass(frozen=True)
class KnownKey:
    """A key that a known_hosts file has for a host."""

    file: Path
    line: int  # from 1
    kind: str  # such as ssh-ed25519
    key: bytes
    revoked: bool


def known_name(address: str, port: int) -> str:
    """Return the name that a host has in a known_hosts file."""
    return address.lower() if port == 22 else f"[{address.lower()}]:{port}"


def keys_of(name: str, files: "Sequence[Path]") -> "list[KnownKey]":
    """Return the keys of *name*; files that are not there and lines that are not understood are passed over.

    Raises HostError for a file that cannot be read.
    """
    return [key for file in files for key in _keys_in(file, name)]


def add_key(name: str, kind: str, key: bytes, file: Path) -> None:
    """Append a key, unless another thread has done so by now. Raises HostError where the file cannot be written."""
    with _adding:
        if any(known.key == key for known in _keys_in(file, name)):
            return
        line = f"{name} {kind} {base64.b64encode(key).decode()}\n".encode()
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            number = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(number).st_size
                torn = size > 0 and os.pread(number, 1, size - 1) != b"\n"
                os.write(number, b"\n" * torn + line)
            finally:
                os.close(number)
        except OSError as exc:
            raise HostError(f"cannot add a host key to {file}: {exc.strerror}") from exc


def fingerprint(key: bytes) -> str:
    """Return a key as `ssh-keygen -l` shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def _keys_in(file: Path, name: str) -> "Iterator[KnownKey]":
    try:
        with open(file, "rb") as stream:
            lines = stream.read(_MOST_BYTES).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return
    except OSError as exc:
        raise HostError(f"cannot read {file}: {exc.strerror}") from exc
    for number, line in enumerate(lines, start=1):
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        # An authority's key proves certificates of hosts, which we do not ask for.
        if len(words) < 3 or words[0].startswith("#") or marker == "@cert-authority" or not _matches(words[0], name):
            continue
        try:
            key = base64.b64decode(words[2], validate=True)
        except (binascii.Error, ValueError):
            continue
        yield KnownKey(file, number, words[1], key, revoked=marker == "@revoked")


def _matches(patterns: str, name: str) -> bool:
    """Tell whether the first field of a line means *name*: names, wildcards, `!` for exceptions, or one hashed name."""
    if patterns.startswith("|1|"):
        try:
            _, _, salt, digest = patterns.split("|")
            wanted = base64.b64decode(digest)
            return hmac.compare_digest(hmac.new(base64.b64decode(salt), name.encode(), hashlib.sha1).digest(), wanted)
        except (ValueError, binascii.Error):
            return False
    found = False
    for pattern in patterns.lower().split(","):
        # In a known_hosts file brackets are letters, and not a set of them as for fnmatch.
        plain = pattern.lstrip("!").replace("[", "[[]")
        if fnmatch.fnmatchcase(name, plain):
            if pattern.startswith("!"):
                return False
            found = True
    return found
