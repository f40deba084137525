"""Small archives with the members that CIFAR-10's has, and a web server on loopback that can misbehave."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Optional

RECORD = 3073
FOLDER = "cifar-10-batches-bin"
NAMES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]


def records(count: int, salt: int = 0) -> bytes:
    """Return so many records, no two alike, labels in turn."""
    return b"".join(
        bytes([number % 10]) + hashlib.shake_128(b"%d %d" % (salt, number)).digest(3072) for number in range(count)
    )


def contents() -> "dict[str, bytes]":
    """Return what the members of an archive hold, by name."""
    files = {f"{FOLDER}/{name}": records(20, salt) for salt, name in enumerate(NAMES)}
    return {**files, f"{FOLDER}/batches.meta.txt": b"airplane\nautomobile\n", f"{FOLDER}/readme.html": b"<html>"}


def pack(files: "Mapping[str, bytes]", *more: tarfile.TarInfo) -> bytes:
    """Return an archive of these files, and of entries without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for entry in more:
            tar.addfile(entry)
    return out.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Server:
    """Serves `content` at every path. Each misbehaviour is taken from `script` in turn, one a request; then none is.

    `break N`: close after N bytes of the body. `stall N`: send N bytes, then nothing until the server is closed.
    `ignore`: no ranges. `long`: announce one byte more than there is. `more`: send more than the file has, without a
    length. `416`: that answer. `shift`: another range than asked for. `weak`: no validator. Any other number: that
    status. `to URL`: a redirect. `untold`: no length.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.tag = '"1"'
        self.script: "list[str]" = []
        self.seen: "list[dict[str, Optional[str]]]" = []  # of each request: path, Range, If-Range
        self.stalled = threading.Event()  # a request is being kept waiting
        self.closing = threading.Event()
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    plan: Server

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        plan = self.plan
        plan.seen.append(
            {"path": self.path, **{name: self.headers.get(name) for name in ("Range", "If-Range", "Host")}}
        )
        act, _, value = (plan.script.pop(0) if plan.script else "").partition(" ")
        self.close_connection = True
        content, wanted = plan.content, self.headers.get("Range")
        if act.isdigit() or act == "to":
            self.send_response(302 if act == "to" else int(act))
            if act == "to":
                self.send_header("Location", value)
            if act == "416":
                self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        same = self.headers.get("If-Range") in (None, plan.tag)
        start = int(wanted[len("bytes=") : -1]) if wanted and same and act != "ignore" else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if start:
            self.send_response(206)
            at = start - 1 if act == "shift" else start
            self.send_header("Content-Range", f"bytes {at}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start:]
        if act not in ("untold", "more"):
            self.send_header("Content-Length", str(len(body) + (act == "long")))
        if act != "weak":
            self.send_header("ETag", plan.tag)
        self.end_headers()
        if act in ("break", "stall"):
            body = body[: int(value)]
        self.wfile.write(body + b"\0" * 1000 * (act == "more"))
        if act == "stall":
            self.wfile.flush()
            plan.stalled.set()
            plan.closing.wait(60)


@contextmanager
def serving(content: bytes) -> "Iterator[Server]":
    """Give a server of *content* on loopback."""
    plan = Server(content)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"plan": plan}))
    httpd.daemon_threads = True
    plan.url = f"http://127.0.0.1:{httpd.server_address[1]}/archive.tar.gz"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield plan
    finally:
        plan.closing.set()
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def make_folder(folder: Path, training: bytes, test: bytes) -> Path:
    """Write a dataset of one file a part."""
    for name, file, content in (
        (FOLDER, "data_batch_1.bin", training),
        ("cifar-10-verify-bin", "test_batch.bin", test),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / file).write_bytes(content)
    return folder
