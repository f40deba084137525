"""KeyRing: proving to a server who we are, by key files, their certificates and the agent; never by a password."""

from __future__ import annotations

import copy
import getpass
import sys
import termios
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import paramiko

from orchestrator.errors import HostError

_DEFAULT_FILES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
_TRIES = 3  # at a passphrase


class KeyRing:
    """Keys are read once, and a passphrase is asked once, for all hosts. An open key is in memory and nowhere else."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: "dict[Path, Optional[paramiko.PKey]]" = {}
        self._trouble: "dict[Path, str]" = {}
        self._asking = threading.Lock()
        self._terminal: "Optional[list[Any]]" = None  # how it was set before a question

    def authenticate(
        self,
        connection: paramiko.Transport,
        host: str,
        user: str,
        identity_files: Sequence[Path],
        certificate_files: Sequence[Path],
        agent: bool,
    ) -> None:
        """Log in as *user*. Raises HostError that names what was tried."""
        tried: "list[str]" = []
        try:
            for label, key in self._keys(identity_files, certificate_files, agent, tried):
                tried.append(label)
                try:
                    more = connection.auth_publickey(user, key)
                except paramiko.BadAuthenticationType as exc:
                    raise HostError(
                        f"{host}: it takes no keys from {user}, only: {', '.join(exc.allowed_types)}"
                    ) from exc
                except paramiko.AuthenticationException:
                    if not connection.is_active():
                        raise
                    continue
                if more:
                    raise HostError(
                        f"{host}: beside a key it wants {', '.join(more)} from {user}, which we cannot give"
                    )
                return
        except (paramiko.SSHException, EOFError, OSError) as exc:
            raise HostError(
                f"{host}: the server ended the connection while {user} logged in, after {_listed(tried)} "
                f"({' '.join(str(exc).split()) or type(exc).__name__}); name the right key as identity_file"
            ) from exc
        raise HostError(
            f"{host}: refuses {user} with {_listed(tried)}; `ssh-copy-id` gives it a key, identity_file names one"
        )

    def _keys(
        self, identity_files: Sequence[Path], certificate_files: Sequence[Path], agent: bool, tried: "list[str]"
    ) -> "Iterator[tuple[str, paramiko.PKey]]":
        """Yield keys to try, the likeliest first, and those that ask for a passphrase last."""
        files = _files(identity_files)
        locked = []
        for file in files:
            key = self._load(file)
            if key is not None:
                yield from _forms(key, file, certificate_files)
            elif self._trouble[file] == _LOCKED:
                locked.append(file)
            elif identity_files:
                tried.append(f"{file} ({self._trouble[file]})")
        if agent:
            yield from _agent_keys()
        for file in locked:
            key = self._unlock(file)
            if key is not None:
                yield from _forms(key, file, certificate_files)
            else:
                tried.append(f"{file} ({self._trouble[file]})")

    def unlock(self, identity_files: Sequence[Path]) -> None:
        """Ask at the terminal for what is needed where neither the agent nor an open file has a key to try."""
        files = _files(identity_files)
        if all(self._load(file) is None for file in files) and next(_agent_keys(), None) is None:
            for file in files:
                if self._trouble[file] == _LOCKED:
                    self._unlock(file)

    def _load(self, file: Path) -> Optional[paramiko.PKey]:
        """Return the key in *file*, or None where `_trouble` has the reason."""
        with self._lock:
            if file not in self._read:
                self._read[file], self._trouble[file] = _key_in(file, None)
            return self._read[file]

    def _unlock(self, file: Path) -> Optional[paramiko.PKey]:
        with self._asking:
            if self._read[file] is not None or self._trouble[file] != _LOCKED:
                return self._read[file]  # another host's thread has asked meanwhile
            if not (sys.stdin and sys.stdin.isatty()):
                return None
            self._terminal = termios.tcgetattr(sys.stdin)
            try:
                for _ in range(_TRIES):
                    key, trouble = _key_in(file, getpass.getpass(f"passphrase of {file}: "))
                    if key is not None:
                        self._read[file] = key
                        return key
                self._trouble[file] = trouble
            except (EOFError, OSError):
                self._trouble[file] = "its passphrase was not given"
            finally:
                self._terminal = None
            return None

    def close(self) -> None:
        """Have the terminal show again what is typed: an interrupted question cannot do so itself, in its thread."""
        terminal = self._terminal
        if terminal is not None:
            termios.tcsetattr(sys.stdin, termios.TCSANOW, terminal)


def _files(identity_files: Sequence[Path]) -> "Sequence[Path]":
    return identity_files or [Path(name).expanduser() for name in _DEFAULT_FILES]


def _key_in(file: Path, passphrase: Optional[str]) -> "tuple[Optional[paramiko.PKey], str]":
    """Return the key in *file*, or why there is none."""
    # paramiko says text, and gives it to cryptography, which takes bytes only.
    secret: Any = passphrase.encode() if passphrase is not None else None
    try:
        return paramiko.PKey.from_path(file, secret), ""
    except FileNotFoundError:
        return None, "no such file"
    except OSError as exc:
        return None, str(exc.strerror)
    except (paramiko.PasswordRequiredException, TypeError):  # cryptography's word for it
        return None, _LOCKED
    except (paramiko.SSHException, ValueError):
        return None, "no private key" if passphrase is None else "wrong passphrase"
    except Exception as exc:  # UnknownKeyType is no SSHException, nor are those of the parsers
        return None, f"unusable: {type(exc).__name__}"


_LOCKED = "locked by a passphrase, and nobody is there to ask; `ssh-add` it"


def _forms(key: paramiko.PKey, file: Path, certificates: Sequence[Path]) -> "Iterator[tuple[str, paramiko.PKey]]":
    """Yield a key with each certificate that is there for it, then by itself."""
    for certificate in [*certificates, Path(f"{file}-cert.pub")]:
        certified = copy.copy(key)
        try:
            certified.load_certificate(str(certificate))
        except (OSError, ValueError, paramiko.SSHException):  # not there, or another key's
            continue
        yield f"{file} and {certificate}", certified
    plain = copy.copy(key)
    plain.public_blob = None
    yield str(file), plain


def _agent_keys() -> "Iterator[tuple[str, paramiko.PKey]]":
    try:
        agent = paramiko.Agent()
    except (paramiko.SSHException, OSError):
        return
    try:
        for key in agent.get_keys():
            yield f"the agent's key {getattr(key, 'comment', '') or key.get_name()}", key
    finally:
        agent.close()


def _listed(tried: "Sequence[str]") -> str:
    return ", ".join(tried) if tried else "no key at all"
