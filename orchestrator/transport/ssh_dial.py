"""Dialer: from what hosts files and ~/.ssh/config say of a host to an authenticated connection."""

from __future__ import annotations

import contextlib
import fnmatch
import getpass
import logging
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import paramiko

from orchestrator.errors import HostError, SpecError
from orchestrator.hostfiles import Target, parse_target
from orchestrator.inventory import HostEntry
from orchestrator.transport import ssh_keys, ssh_known
from orchestrator.transport.ssh import Ssh
from orchestrator.transport.ssh_connection import Connection

_CONNECT_TIMEOUT_S = 10.0  # for TCP, and for each thing that the server has to say afterwards
_AUTH_TIMEOUT_S = 20.0
_DROPPED_TIMEOUT_S = 30.0  # how long a server that drops connects (MaxStartups 10:30:100) is tried again
_FIRST_DELAY_S, _MOST_DELAY_S = 0.2, 3.0
_TOO_MANY = (b"Exceeded MaxStartups", b"Not allowed at this time")  # sshd's words instead of a greeting
_DEAD_AFTER_MS = 45_000  # without an answer to what we sent, a keepalive at least
_FAST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")  # 2 to 3 times the others' bytes a second

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # what goes wrong, our errors say


@dataclass(frozen=True)
class Route:
    """All that is known of the way to one host."""

    name: str
    address: str
    port: int
    user: str
    identity_files: tuple[Path, ...]  # that somebody named; none: what lies in ~/.ssh
    certificate_files: tuple[Path, ...]
    agent: bool
    known_as: str  # in known_hosts
    known_hosts: tuple[Path, ...]  # the first takes new keys
    jumps: tuple[Target, ...]


class Dialer:
    """Opens connections; hosts behind the same jump host share the one to it. Close it after them."""

    def __init__(self, ssh_config: Optional[Path] = None, *, accept_new_host_keys: bool = False) -> None:
        """*ssh_config* None is ~/.ssh/config, if there is one. Raises SpecError for one that cannot be read."""
        self._config = _read_config(ssh_config)
        self._accept_new = accept_new_host_keys
        self._keys = ssh_keys.KeyRing()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._jump_hosts: "dict[HostEntry, _Shared]" = {}

    def dial(self, entry: HostEntry) -> Ssh:
        """Connect. Raises HostError, which says what is wrong and what helps."""
        route = self._route(entry)
        self._refuse_circle(route)
        return self._dial(route)

    def unlock(self, entries: "Sequence[HostEntry]") -> None:
        """Ask now for passphrases that dialling would ask for: whoever dials later may have no terminal."""
        for entry in entries:
            with contextlib.suppress(HostError):  # `dial` tells it
                self._keys.unlock(self._route(entry).identity_files)

    def close(self) -> None:
        """End the connections to jump hosts, and whatever is being dialled."""
        self._closing.set()
        self._keys.close()
        with self._lock:
            shared = list(self._jump_hosts.values())
        for one in shared:
            if one.ssh is not None:
                one.ssh.close()

    def _route(self, entry: HostEntry) -> Route:
        said = self._said_of(entry)
        if said.get("proxycommand") and entry.jump is None and "proxyjump" not in said:
            raise HostError(f"{entry.name}: its ProxyCommand in the SSH configuration is not run; write a ProxyJump")
        jump = entry.jump if entry.jump is not None else said.get("proxyjump", "none")
        identities = [entry.identity_file] if entry.identity_file else said.get("identityfile", [])
        certificates = said.get("certificatefile", [])
        known = said.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2").split()
        system = said.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts").split()
        address = said["hostname"]
        try:
            port = entry.port or int(said.get("port", 22))
            jumps = () if jump.lower() == "none" else tuple(parse_target(part.strip()) for part in jump.split(","))
        except (ValueError, SpecError) as exc:
            raise HostError(f"{entry.name}: the SSH configuration: {exc}") from exc
        return Route(
            name=entry.name,
            address=address,
            port=port,
            user=entry.user or said.get("user") or getpass.getuser(),
            identity_files=tuple(_home(path) for path in identities),
            certificate_files=tuple(
                _home(path) for path in ([certificates] if isinstance(certificates, str) else certificates)
            ),
            agent=said.get("identitiesonly", "no").lower() != "yes",
            known_as=said["hostkeyalias"].lower() if "hostkeyalias" in said else ssh_known.known_name(address, port),
            known_hosts=tuple(_home(path) for path in [*known, *system]),
            jumps=jumps,
        )

    def _said_of(self, entry: HostEntry) -> "dict[str, Any]":
        """Return what the SSH configuration says of a host: of its address, else of its name."""
        known = [pattern for pattern in self._config.get_hostnames() if pattern != "*" and not pattern.startswith("!")]
        if entry.name == entry.address or any(fnmatch.fnmatchcase(entry.address, pattern) for pattern in known):
            return dict(self._config.lookup(entry.address))
        return {**self._config.lookup(entry.name), "hostname": entry.address}

    def _refuse_circle(self, route: Route) -> None:
        """Raise HostError where the way to a host leads through itself, before anybody waits for that."""
        seen: "set[HostEntry]" = set()
        ahead = route
        while ahead.jumps:
            jump = _jump_of(ahead)
            if jump in seen:
                raise HostError(f"{route.name}: its jump hosts lead in a circle, through {jump.address}")
            seen.add(jump)
            ahead = self._route(jump)

    def _dial(self, route: Route) -> Ssh:
        delay_s = _FIRST_DELAY_S
        deadline = time.monotonic() + _DROPPED_TIMEOUT_S
        while True:
            try:
                return Ssh(route.name, _spelled(Target(route.address, route.user, route.port)), self._connect(route))
            except _Dropped as exc:
                if time.monotonic() + delay_s > deadline:
                    raise HostError(
                        f"{route.name}: {route.address} port {route.port} drops the connection ({exc}); "
                        "see MaxStartups and DenyUsers in its sshd_config, and its log"
                    ) from exc
            if self._closing.wait(delay_s * random.uniform(0.5, 1.0)):
                raise HostError(f"{route.name}: interrupted")
            delay_s = min(_MOST_DELAY_S, 1.7 * delay_s)

    def _connect(self, route: Route) -> paramiko.Transport:
        sock = self._reach(route)
        greeting = b"" if route.jumps else _greeting(route, sock)
        connection: Optional[paramiko.Transport] = None
        try:
            with _told_of(route, greeting):
                connection = Connection(sock)
                connection.banner_timeout = connection.handshake_timeout = _CONNECT_TIMEOUT_S
                connection.auth_timeout = _AUTH_TIMEOUT_S
                known = ssh_known.keys_of(route.known_as, route.known_hosts)
                options = connection.get_security_options()
                options.ciphers = sorted(options.ciphers, key=lambda cipher: cipher not in _FAST_CIPHERS)
                options.key_types = _known_first(list(options.key_types), {key.kind for key in known})
                connection.start_client(timeout=2 * _CONNECT_TIMEOUT_S)
                if not connection.initial_kex_done:
                    raise socket.timeout
            self._check_host_key(route, connection.get_remote_server_key(), known)
            self._keys.authenticate(
                connection, route.name, route.user, route.identity_files, route.certificate_files, route.agent
            )
            return connection
        except BaseException:
            if connection is not None:
                connection.close()
            sock.close()
            raise

    def _reach(self, route: Route) -> socket.socket:
        """Return a TCP connection to the host, straight or through its jump hosts."""
        if not route.jumps:
            return _tcp(route)
        jump = _jump_of(route)
        with self._lock:
            shared = self._jump_hosts.setdefault(jump, _Shared())
        with shared.lock:  # hosts behind it wait for one of them to connect
            if shared.ssh is None or not shared.ssh.is_alive():
                try:
                    shared.ssh = self._dial(self._route(jump))
                except HostError as exc:
                    raise HostError(f"{route.name}: by its jump host {exc}") from exc
        try:
            return shared.ssh.tunnel(route.address, route.port, _CONNECT_TIMEOUT_S)
        except HostError as exc:
            raise HostError(f"{route.name}: {exc}") from exc

    def _check_host_key(self, route: Route, key: paramiko.PKey, known: "Sequence[ssh_known.KnownKey]") -> None:
        shown = f"{key.get_name()} {ssh_known.fingerprint(key.asbytes())}"
        same = [one for one in known if one.key == key.asbytes()]
        if any(one.revoked for one in same):
            raise HostError(f"{route.name}: its host key {shown} is revoked in {same[0].file} line {same[0].line}")
        if same:
            return
        others = [one for one in known if not one.revoked]
        if others:
            raise HostError(
                f"{route.name}: the host key of {route.address} has changed: {others[0].file} line {others[0].line} "
                f"has {ssh_known.fingerprint(others[0].key)}, it now shows {shown}. Somebody sits between, or the host "
                f"was installed anew: then `ssh-keygen -R '{route.known_as}' -f '{others[0].file}'`"
            )
        if not self._accept_new:
            raise HostError(
                f"{route.name}: the host key of {route.address} is not known ({shown}); connect once with `ssh`, "
                "or use --accept-new-host-keys"
            )
        ssh_known.add_key(route.known_as, key.get_name(), key.asbytes(), route.known_hosts[0])


class _Shared:
    """The one connection to a jump host."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ssh: Optional[Ssh] = None


class _Dropped(Exception):
    """The server ended the connection before it said who it is: it has too many at once."""


@contextlib.contextmanager
def _told_of(route: Route, greeting: bytes) -> Iterator[None]:
    """Raise what goes wrong until the host has shown its key as HostError, or as _Dropped where another try helps."""
    there = f"{route.name}: {route.address} port {route.port}"
    try:
        yield
    except paramiko.ssh_exception.IncompatiblePeer as exc:
        raise HostError(f"{there}: no algorithm in common: {exc}") from exc
    except (paramiko.SSHException, EOFError, OSError) as exc:
        causes = [exc, exc.__context__]
        if any(isinstance(cause, socket.timeout) for cause in causes):
            raise HostError(_silent(route)) from exc
        if greeting and not greeting.startswith((b"SSH-", *_TOO_MANY)):
            said = greeting.split(b"\n")[0].decode("utf-8", "replace").strip()
            raise HostError(f"{there} is no SSH server: it says {said!r:.80}") from exc
        if any(isinstance(cause, (EOFError, ConnectionError)) for cause in causes):
            raise _Dropped("closed before its first word") from exc
        raise HostError(f"{there} does not speak SSH as we do: {' '.join(str(exc).split())[:200]}") from exc


def _tcp(route: Route) -> socket.socket:
    there = f"{route.address} port {route.port}"
    try:
        sock = socket.create_connection((route.address, route.port), timeout=_CONNECT_TIMEOUT_S)
    except socket.gaierror as exc:
        raise HostError(f"{route.name}: there is no host by the name {route.address} ({exc.strerror})") from exc
    except ConnectionRefusedError as exc:
        raise HostError(f"{route.name}: {there} refuses connections: no sshd listens there") from exc
    except ConnectionResetError as exc:
        raise _Dropped("reset") from exc
    except socket.timeout as exc:
        raise HostError(f"{route.name}: {there} does not answer within {_CONNECT_TIMEOUT_S:g} s: is it up?") from exc
    except (OSError, UnicodeError) as exc:
        raise HostError(f"{route.name}: cannot reach {there}: {getattr(exc, 'strerror', None) or exc}") from exc
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER_MS)
    return sock


def _greeting(route: Route, sock: socket.socket) -> bytes:
    """Return the beginning of what the server says first, and leave it to be read."""
    try:
        greeting = sock.recv(256, socket.MSG_PEEK)
    except socket.timeout as exc:
        sock.close()
        raise HostError(_silent(route)) from exc
    except OSError:
        greeting = b""
    if not greeting:
        sock.close()
        raise _Dropped("closed before its first word")
    return greeting


def _silent(route: Route) -> str:
    there = f"{route.name}: {route.address} port {route.port}"
    return f"{there} takes connections and says nothing within {_CONNECT_TIMEOUT_S:g} s: its sshd hangs"


def _known_first(kinds: "list[str]", known: "set[str]") -> "list[str]":
    """Return the kinds of host key to ask for: those that we know of the host first, or it would show another."""
    rsa = {"rsa-sha2-256", "rsa-sha2-512"} if "ssh-rsa" in known else set()
    return sorted(kinds, key=lambda kind: kind not in known | rsa)


def _read_config(path: Optional[Path]) -> paramiko.SSHConfig:
    file = path or Path("~/.ssh/config").expanduser()
    try:
        return paramiko.SSHConfig.from_text(_with_includes(file, 0))
    except FileNotFoundError as exc:
        if path is None:
            return paramiko.SSHConfig()
        raise SpecError(f"{exc.filename}: there is no such SSH configuration") from exc
    except OSError as exc:
        raise SpecError(f"{exc.filename}: {exc.strerror}") from exc
    except (paramiko.ConfigParseError, ValueError) as exc:
        raise SpecError(f"{file}: no SSH configuration: {' '.join(str(exc).split())[:200]}") from exc


def _with_includes(file: Path, depth: int) -> str:
    """Return the text of an SSH configuration with its `Include` lines replaced; paramiko does not know them."""
    if depth > 16:
        raise ValueError(f"{file}: Include within Include without end")
    lines: "list[str]" = []
    for line in file.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        words = line.replace("=", " ", 1).split()
        if not words or words[0].lower() != "include":
            lines.append(line)
            continue
        for pattern in words[1:]:
            below = Path(pattern.strip('"')).expanduser()
            folder = Path("~/.ssh").expanduser()  # where OpenSSH looks for those of a user
            found = sorted(Path("/").glob(str(folder / below).lstrip("/")))
            lines += [_with_includes(one, depth + 1) for one in found]
    return "\n".join(lines) + "\n"


def _home(path: str) -> Path:
    return Path(path.strip('"')).expanduser()


def _jump_of(route: Route) -> HostEntry:
    """Return the last host on the way to another; the hosts before it lead there."""
    *before, last = route.jumps
    way = ",".join(_spelled(target) for target in before) or None
    return HostEntry(last.address, last.address, last.user, last.port, jump=way)


def _spelled(target: Target) -> str:
    address = f"[{target.address}]" if ":" in target.address else target.address
    return f"{target.user}@" * (target.user is not None) + address + f":{target.port}" * (target.port is not None)
