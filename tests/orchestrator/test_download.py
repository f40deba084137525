"""A download against a real server on loopback that misbehaves."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.download import Transfer, Wanted, checked_url, download
from orchestrator.errors import DatasetError, HostError
from tests.archives import Server, serving

CONTENT = bytes(range(256)) * 2000  # 512,000 bytes
AT_ONCE = (0.0, 0.0)  # pauses between attempts in vain


@pytest.fixture
def server() -> "Iterator[Server]":
    with serving(CONTENT) as server:
        yield server


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "file.part"


def get(server: Server, part: Path, **known: Any) -> "list[Transfer]":
    told: "list[Transfer]" = []
    download(Wanted(server.url, **known), part, told.append, AT_ONCE)
    return told


def refused(server: Server, part: Path, **known: Any) -> str:
    with pytest.raises(HostError) as caught:
        get(server, part, **known)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_arrives_whole_and_its_progress_is_told(server: Server, part: Path) -> None:
    told = get(server, part, size_bytes=len(CONTENT))
    assert part.read_bytes() == CONTENT
    assert told[-1].done_bytes == told[-1].total_bytes == len(CONTENT)
    assert told[-1].left_s == 0


@pytest.mark.parametrize("known", [{}, {"size_bytes": len(CONTENT)}])
def test_a_broken_download_goes_on_where_it_stood(server: Server, part: Path, known: "dict[str, int]") -> None:
    server.script = ["break 100000", "break 200000"]
    get(server, part, **known)
    assert part.read_bytes() == CONTENT
    assert [request["Range"] for request in server.seen] == [None, "bytes=100000-", "bytes=300000-"]
    assert [request["If-Range"] for request in server.seen] == [None, '"1"', '"1"']


def test_a_part_of_an_earlier_process_is_gone_on_with(server: Server, part: Path) -> None:
    server.script = ["break 1000", "404"]
    assert "404 Not Found" in refused(server, part)
    assert part.read_bytes() == CONTENT[:1000]
    assert download(Wanted(server.url), part, lambda told: None) is True
    assert part.read_bytes() == CONTENT
    assert server.seen[-1]["Range"] == "bytes=1000-"


def test_a_whole_part_needs_no_body(server: Server, part: Path) -> None:
    part.write_bytes(CONTENT)
    get(server, part)
    assert [request["Range"] for request in server.seen] == [f"bytes={len(CONTENT)}-"]
    get(server, part, size_bytes=len(CONTENT))
    assert len(server.seen) == 1


@pytest.mark.parametrize("act", ["ignore", "416", "shift"])
def test_a_server_that_will_not_go_on_sends_it_all_anew(server: Server, part: Path, act: str) -> None:
    part.write_bytes(b"other" * 100)
    server.script = [act]
    get(server, part)
    assert part.read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_begun_anew(server: Server, part: Path) -> None:
    server.script = ["break 200000"]
    original, changed = server.content, bytes(reversed(CONTENT))
    server.script.append("503")
    server.content, server.tag = original, '"1"'
    with pytest.raises(HostError):
        download(Wanted(server.url), part, lambda told: None, ())
    server.content, server.tag = changed, '"2"'
    get(server, part)
    assert part.read_bytes() == changed


def test_a_file_without_validator_that_changed_its_size_is_begun_anew(server: Server, part: Path) -> None:
    server.script = ["weak"]
    get(server, part)
    part.write_bytes(CONTENT[:1000])
    server.content = changed = bytes(reversed(CONTENT)) + b"more"
    get(server, part)
    assert part.read_bytes() == changed


def test_a_part_that_is_larger_than_the_file_is_none(server: Server, part: Path) -> None:
    part.write_bytes(CONTENT + b"more")
    get(server, part, size_bytes=len(CONTENT))
    assert part.read_bytes() == CONTENT


def test_a_server_that_breaks_off_again_and_again_is_given_up_and_the_part_kept(server: Server, part: Path) -> None:
    server.script = ["break 300", *["break 0"] * 9]
    told = refused(server, part)
    assert "broke off after 300 of 512,000 bytes, 3 times in a row; 300 bytes are kept" in told
    assert part.read_bytes() == CONTENT[:300]


def test_a_server_that_announces_more_than_it_sends_is_asked_for_the_rest(server: Server, part: Path) -> None:
    server.script = ["long"]
    get(server, part)
    assert part.read_bytes() == CONTENT
    assert server.seen[1]["Range"] == "bytes=512000-"


def test_a_file_of_another_size_is_refused_before_a_byte_of_it_is_kept(server: Server, part: Path) -> None:
    assert "offers 512,000 bytes, the file has 5" in refused(server, part, size_bytes=5)
    assert not part.exists()


def test_a_server_that_sends_more_than_the_file_has_is_stopped(server: Server, part: Path) -> None:
    server.script = ["more"]
    assert "sends more than the file has" in refused(server, part, size_bytes=len(CONTENT))
    assert part.stat().st_size <= len(CONTENT)


def test_a_server_that_tells_no_length_is_read_to_its_end(server: Server, part: Path) -> None:
    server.script = ["untold"]
    assert get(server, part)[-1].total_bytes is None
    assert part.read_bytes() == CONTENT


def test_a_stalled_connection_is_given_up_for_another(server: Server, part: Path) -> None:
    server.script = ["stall 70000"]
    get(server, part, timeout_s=0.2)
    assert part.read_bytes() == CONTENT
    assert server.seen[1]["Range"] == "bytes=70000-"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_answer_that_may_change_is_asked_for_again(server: Server, part: Path, status: int) -> None:
    server.script = [str(status), str(status)]
    get(server, part)
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize(("status", "says"), [(404, "404 Not Found"), (403, "403 Forbidden"), (204, "answers 204")])
def test_an_answer_that_will_not_change_is_told_at_once(server: Server, part: Path, status: int, says: str) -> None:
    server.script = [str(status)]
    assert says in refused(server, part)
    assert len(server.seen) == 1


def test_a_redirect_is_followed_with_the_range(server: Server, part: Path) -> None:
    part.write_bytes(CONTENT[:1000])
    server.script = [f"to {server.url}?elsewhere"]
    get(server, part)
    assert part.read_bytes() == CONTENT
    assert server.seen[1]["Range"] == "bytes=1000-"


def test_a_redirect_in_a_circle_is_told_as_one(server: Server, part: Path) -> None:
    server.script = [f"to {server.url}"] * 30
    assert "redirected in a circle" in refused(server, part)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "http://[nowhere/", "//["])
def test_a_redirect_leads_to_http_only(server: Server, part: Path, target: str) -> None:
    server.script = [f"to {target}"]
    refused(server, part)
    assert not part.exists()


def test_a_server_that_is_not_there_is_told_with_the_other_ways(part: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/x"
        with pytest.raises(HostError, match=r"Connection refused; name a mirror by --url, or bring .* --archive"):
            download(Wanted(url), part, lambda told: None)


def test_a_server_that_speaks_no_http_is_told_in_one_line(part: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}/x"
        other.settimeout(10)

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH_9.0\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(HostError) as caught:
            download(Wanted(url), part, lambda told: None)
        thread.join()
    assert "\n" not in str(caught.value)


def test_a_proxy_of_the_environment_is_used(server: Server, part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    download(Wanted("http://cifar.invalid/archive"), part, lambda told: None)
    assert part.read_bytes() == CONTENT
    assert server.seen[0]["path"] == "http://cifar.invalid/archive"


def test_too_little_room_is_told_before_a_byte_is_kept(server: Server, part: Path) -> None:
    assert "bytes are needed on this disk" in refused(server, part, room_bytes=1 << 62)
    assert not part.exists()


def test_a_note_beside_the_part_that_is_damaged_does_no_harm(server: Server, part: Path) -> None:
    for note in ("[1]", "{", json.dumps({"url": server.url, "validator": 5, "total": "x"})):
        part.write_bytes(CONTENT[:1000])
        part.with_name("file.part.json").write_text(note)
        get(server, part)
        assert part.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "url", ["", "x", "/etc/passwd", "file:///etc/passwd", "ftp://host/x", "http://", "http://h:port/", "http://h/a b"]
)
def test_what_is_no_http_address_is_refused(url: str) -> None:
    with pytest.raises(DatasetError, match="--url"):
        checked_url(url)


def test_an_address_is_shown_without_its_secrets_and_never_with_a_password() -> None:
    assert checked_url("https://host:1/path?token=secret") == "https://host:1/path"
    with pytest.raises(DatasetError) as caught:
        checked_url("https://me:secret@host/path")
    assert "secret" not in str(caught.value)
