"""KeyRing: proving to a server who we are, by key files, their certificates and the agent; never by a password."""

from __future__ import annotations

import copy
import getpass
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

import paramiko

from orchestrator.errors import HostError

_DEFAULT_FILES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
_TRIES = 3  # at a passphrase


class KeyRing:
    """Keys are read once, and a passphrase is asked once, for all hosts. It is kept nowhere."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: "dict[Path, Optional[paramiko.PKey]]" = {}
        self._trouble: "dict[Path, str]" = {}

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
        files = identity_files or [Path(name).expanduser() for name in _DEFAULT_FILES]
        locked = []
        for file in files:
            key = self._load(file, None)
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

    def _load(self, file: Path, passphrase: Optional[str]) -> Optional[paramiko.PKey]:
        with self._lock:
            if passphrase is None and file in self._read:
                return self._read[file]
            self._read[file] = None
            try:
                self._read[file] = paramiko.PKey.from_path(file, passphrase)
            except FileNotFoundError:
                self._trouble[file] = "no such file"
            except OSError as exc:
                self._trouble[file] = str(exc.strerror)
            except (paramiko.PasswordRequiredException, TypeError):  # cryptography's word for it
                self._trouble[file] = _LOCKED
            except (paramiko.SSHException, ValueError):
                self._trouble[file] = "no private key" if passphrase is None else "wrong passphrase"
            except Exception as exc:  # UnknownKeyType is no SSHException, nor are the parser's own
                self._trouble[file] = f"unusable: {type(exc).__name__}"
            return self._read[file]

    def _unlock(self, file: Path) -> Optional[paramiko.PKey]:
        with _terminal:
            if self._read[file] is not None or self._trouble[file] != _LOCKED:
                return self._read[file]  # another host's thread has asked meanwhile
            if not (sys.stdin and sys.stdin.isatty()):
                return None
            for _ in range(_TRIES):
                try:
                    passphrase = getpass.getpass(f"passphrase of {file}: ")
                except (EOFError, OSError):
                    return None
                key = self._load(file, passphrase)
                if key is not None:
                    return key
            return None


_LOCKED = "locked by a passphrase, and nobody is there to ask; `ssh-add` it"
_terminal = threading.Lock()


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
