"""Bring one file over HTTP, going on where an earlier attempt broke off.

The client is the standard library's: it follows redirects, honours proxies (`https_proxy`, `no_proxy`) and checks
certificates (`SSL_CERT_FILE`). httpx or requests would put four more packages on every host for the sake of one GET,
and neither resumes by itself.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from orchestrator import __version__
from orchestrator.errors import DatasetError, HostError, written_to
from orchestrator.supervisor.rundir import write_atomically

MOST_BYTES = 1 << 40  # of a file whose size nobody told
_BLOCK = 1 << 18
_TELL_EVERY_S = 0.1
_RATE_OVER_S = 5.0
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # after attempts in a row that brought nothing to speak of
_WORTH_BYTES = 1 << 16  # an attempt that brought so much counts as none in vain
_OTHER_WAYS = "name a mirror by --url, or bring the archive here yourself and name it by --archive"
_LATER = (408, 425, 429, 500, 502, 503, 504)  # answers that another attempt may change


@dataclass(frozen=True)
class Transfer:
    """How far a transfer is."""

    done_bytes: int
    total_bytes: Optional[int]  # None: the server did not tell
    bytes_per_s: Optional[float]  # of late; None: too early to say

    @property
    def left_s(self) -> Optional[float]:
        """Seconds until the end at the present rate."""
        if self.total_bytes is None or not self.bytes_per_s:
            return None
        return (self.total_bytes - self.done_bytes) / self.bytes_per_s


@dataclass(frozen=True)
class Wanted:
    """A file to bring: from where, and what is known of it beforehand."""

    url: str
    size_bytes: Optional[int] = None
    room_bytes: int = 0  # free space that must remain on the disk for what is done with the file
    timeout_s: float = 30.0  # without a single byte


class _BrokenOff(Exception):
    """An attempt ended before the file did; another one may bring the rest."""


def download(
    wanted: Wanted, part: Path, tell: "Callable[[Transfer], None]", pauses_s: Sequence[float] = _PAUSES_S
) -> bool:
    """Complete *part*, the beginning of the file (or nothing yet), and tell whether it had a beginning before.

    What is there is kept however this ends, so the next call goes on from it. A file that has changed on the server
    is begun anew. Raises HostError when the server cannot be reached, refuses, or breaks off again and again, and
    for a full disk; DatasetError for an address that is none.
    """
    opener, shown = _opener(), checked_url(wanted.url)
    had_some = _size(part) > 0
    meter = _Meter(tell)
    in_vain = 0
    while True:
        before = _size(part)
        try:
            _attempt(opener, wanted, part, meter)
            return had_some
        except _BrokenOff as exc:
            in_vain = 0 if _size(part) - before >= _WORTH_BYTES else in_vain + 1
            if in_vain > len(pauses_s):
                raise HostError(
                    f"{shown}: {exc}, {in_vain} times in a row; "
                    f"{_size(part):,} bytes are kept, and the same command goes on from there"
                ) from exc
            time.sleep(pauses_s[in_vain - 1] if in_vain else 0.0)


def checked_url(url: str) -> str:
    """Return how to show *url* in messages, without what may be secret in it.

    Raises DatasetError unless it is an HTTP address without a password.
    """
    try:
        pieces = urllib.parse.urlsplit(url)
        host, port = pieces.hostname, pieces.port
    except ValueError as exc:
        raise DatasetError(f"--url: no address ({exc})") from exc
    if pieces.username is not None or pieces.password is not None:
        raise DatasetError("--url: leave name and password out of the address; what is in it, `ps` shows to everyone")
    if pieces.scheme not in ("http", "https") or not host or not re.fullmatch(r"[!-~]+", url):
        raise DatasetError(f"--url: '{url}' is no HTTP address, such as https://host/path/archive.tar.gz")
    return f"{pieces.scheme}://{host}{f':{port}' if port else ''}{pieces.path}"


def _opener() -> urllib.request.OpenerDirector:
    """Return a client for HTTP alone: a redirect must not lead to file: or ftp:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _attempt(opener: urllib.request.OpenerDirector, wanted: Wanted, part: Path, meter: "_Meter") -> None:
    """Ask once for what *part* lacks and append it. Raises _BrokenOff or HostError."""
    have = _size(part)
    if wanted.size_bytes is not None and have > wanted.size_bytes:
        part.unlink()  # whatever it is, it is no beginning of that file
        have = 0
    if have and have == wanted.size_bytes:
        return
    response = _open(opener, wanted, part, have, meter.begun)
    if response is None:
        return
    with response:
        start, total = _extent(response, part, have)
        if total is not None and wanted.size_bytes is not None and total != wanted.size_bytes:
            raise HostError(
                f"{checked_url(wanted.url)}: the server offers {total:,} bytes, the file has {wanted.size_bytes:,}; "
                "it is another file, or the answer of a proxy"
            )
        total = total if total is not None else wanted.size_bytes
        with written_to(part.parent):
            _require_room(part.parent, (total or 0) - start + wanted.room_bytes)
            _remember(part, wanted.url, response, total)
        done = start
        with written_to(part), open(part, "r+b" if start else "wb") as file:
            file.seek(start)
            meter.begin(done, total)
            while block := _read(response):
                done += len(block)
                if done > (MOST_BYTES if total is None else total):
                    raise HostError(f"{checked_url(wanted.url)}: the server sends more than the file has")
                file.write(block)
                meter.advance(done)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and done < total:
        raise _BrokenOff(f"the server broke off after {done:,} of {total:,} bytes")
    meter.advance(done, now=True)


def _open(
    opener: urllib.request.OpenerDirector, wanted: Wanted, part: Path, have: int, reached: bool
) -> "Optional[http.client.HTTPResponse]":
    """Send the request. None: the server says that the *have* bytes of *part* are the whole file.

    A server that was *reached* before and is not now is worth another attempt.
    """
    shown = checked_url(wanted.url)
    headers = {"User-Agent": f"ascendrun/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        note = _remembered(part)
        if note.get("url") == wanted.url and note.get("validator"):
            headers["If-Range"] = str(note["validator"])
    try:
        response: http.client.HTTPResponse = opener.open(
            urllib.request.Request(wanted.url, headers=headers), timeout=wanted.timeout_s
        )
        return response
    except urllib.error.HTTPError as exc:
        exc.close()
        phrase = f"{exc.code} {http.client.responses.get(exc.code, '')}".strip()
        if exc.code == 416 and have:
            if (exc.headers.get("Content-Range") or "").strip() == f"bytes */{have}":
                return None
            part.unlink()
            raise _BrokenOff("the file on the server has changed") from exc
        if exc.code in _LATER:
            raise _BrokenOff(f"the server answers {phrase}") from exc
        if exc.code // 100 == 3:
            phrase += ": redirected in a circle, or to nowhere"
        raise HostError(f"{shown}: the server answers {phrase}; {_OTHER_WAYS}") from exc
    except (OSError, http.client.HTTPException, ValueError) as exc:  # ValueError: a redirect to no address
        reason = getattr(exc, "reason", None) or exc
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise HostError(
                f"{shown}: its certificate is not trusted ({reason.verify_message}); "
                "where a proxy of yours signs, name its certificate in SSL_CERT_FILE"
            ) from exc
        said = " ".join(str(getattr(reason, "strerror", None) or reason or type(reason).__name__).split())
        if reached:
            raise _BrokenOff(f"no connection: {said}") from exc
        raise HostError(f"{shown}: no connection: {said}; {_OTHER_WAYS}") from exc


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(_BLOCK)
    except (OSError, http.client.HTTPException) as exc:
        raise _BrokenOff(f"the connection broke: {str(exc) or type(exc).__name__}") from exc


def _extent(response: http.client.HTTPResponse, part: Path, have: int) -> "tuple[int, Optional[int]]":
    """Return where in the file the body begins, and the size of the whole file if told."""
    if response.status == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
    told = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", response.headers.get("Content-Range", ""))
    if response.status == 206 and told is not None and int(told[1]) == have:
        total = None if told[2] == "*" else int(told[2])
        if total is None or _remembered(part).get("total") in (None, total):
            return have, total
    if not have:
        raise HostError(f"{checked_url(response.url)}: the server answers {response.status} to a plain request")
    part.unlink()
    raise _BrokenOff("the server sent another piece than it was asked for, or the file has changed")


def _require_room(folder: Path, room_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < room_bytes:
        raise HostError(f"{folder}: {room_bytes:,} bytes are needed on this disk, {free:,} are free")


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _remember(part: Path, url: str, response: http.client.HTTPResponse, total: Optional[int]) -> None:
    """Keep what will tell whether the file is still the same (RFC 9110, 13.1.5: a weak tag cannot)."""
    tag = response.headers.get("ETag") or ""
    validator = tag if tag.startswith('"') else response.headers.get("Last-Modified")
    write_atomically(_note(part), json.dumps({"url": url, "validator": validator, "total": total}), mode=0o600)


def _remembered(part: Path) -> "dict[str, Any]":
    try:
        note = json.loads(_note(part).read_bytes())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


class _Meter:
    """Tells how far a transfer is, some times a second, with its rate over the last seconds."""

    def __init__(self, tell: "Callable[[Transfer], None]") -> None:
        self.begun = False
        self._tell = tell
        self._total: Optional[int] = None
        self._told_at = 0.0
        self._past: "deque[tuple[float, int]]" = deque()  # (monotonic time, bytes done)

    def begin(self, done: int, total: Optional[int]) -> None:
        """Start counting at *done*: what an earlier attempt brought says nothing of this one's rate."""
        self.begun = True
        self._total = total
        self._past = deque([(time.monotonic(), done)])

    def advance(self, done: int, *, now: bool = False) -> None:
        at = time.monotonic()
        if not now and at - self._told_at < _TELL_EVERY_S:
            return
        self._told_at = at
        self._past.append((at, done))
        while len(self._past) > 2 and at - self._past[0][0] > _RATE_OVER_S:
            self._past.popleft()
        since, before = self._past[0]
        rate = (done - before) / (at - since) if at > since else None
        self._tell(Transfer(done, self._total, rate))
