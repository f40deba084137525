from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from orchestrator.errors import HostError
from orchestrator.transport.ssh_known import add_key, fingerprint, keys_of, known_name

KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIDv9N0YqTichqwYOuOdD1cUZMEyOSkrAt8wV3gDlDPMF"
OTHER = "AAAAC3NzaC1lZDI1NTE5AAAAIAJ5Oe0nyyV3v9KSRlA0OzMDAwMDAwMDAwMDAwMDAwMD"


@pytest.mark.parametrize(
    ("line", "name", "known"),
    [
        (f"node1 ssh-ed25519 {KEY}", "node1", True),
        (f"node1 ssh-ed25519 {KEY} a comment", "node1", True),
        (f"node1,10.0.0.1\tssh-ed25519  {KEY}", "10.0.0.1", True),
        (f"NODE1 ssh-ed25519 {KEY}", "node1", True),
        (f"node1 ssh-ed25519 {KEY}", "node11", False),
        (f"node1 ssh-ed25519 {KEY}", "[node1]:2222", False),
        (f"[node1]:2222 ssh-ed25519 {KEY}", "[node1]:2222", True),
        (f"[node1]:2222 ssh-ed25519 {KEY}", "n:2222", False),
        (f"[*.example.org]:2222 ssh-ed25519 {KEY}", "[a.example.org]:2222", True),
        (f"node?,!node3 ssh-ed25519 {KEY}", "node1", True),
        (f"node?,!node3 ssh-ed25519 {KEY}", "node3", False),
        (f"# node1 ssh-ed25519 {KEY}", "node1", False),
        (f"@cert-authority node1 ssh-ed25519 {KEY}", "node1", False),
        ("node1 ssh-ed25519 ***", "node1", False),
        ("node1", "node1", False),
        ("|1|x|y ssh-ed25519 " + KEY, "node1", False),
    ],
)
def test_a_line_says_whose_key_it_has(tmp_path: Path, line: str, name: str, known: bool) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"\n{line}\n")
    found = keys_of(name, [tmp_path / "none", file])
    assert [(key.line, key.kind, key.revoked) for key in found] == [(2, "ssh-ed25519", False)] * known


def test_revoked_keys_are_told(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"@revoked * ssh-ed25519 {KEY}\n")
    assert [key.revoked for key in keys_of("node1", [file])] == [True]


@pytest.mark.parametrize("name", ["node1", "[10.0.0.1]:2222"])
def test_names_that_ssh_keygen_has_hashed_are_found(tmp_path: Path, name: str) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"{name} ssh-ed25519 {KEY}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)
    assert name not in file.read_text()
    assert len(keys_of(name, [file])) == 1
    assert not keys_of("node2", [file])


def test_ssh_keygen_finds_what_we_add_and_shows_the_fingerprint_that_we_show(tmp_path: Path) -> None:
    file = tmp_path / "new" / "known_hosts"
    key = _bytes(KEY)
    add_key(known_name("node1", 2222), "ssh-ed25519", key, file)
    found = subprocess.run(
        ["ssh-keygen", "-l", "-F", "[node1]:2222", "-f", str(file)], check=True, capture_output=True, text=True
    )
    assert fingerprint(key) in found.stdout
    assert file.stat().st_mode & 0o077 == 0


def test_a_key_is_added_on_a_line_of_its_own_and_once(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(f"node0 ssh-ed25519 {OTHER}")  # whoever wrote it left the line open
    threads = [threading.Thread(target=add_key, args=("node1", "ssh-ed25519", _bytes(KEY), file)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_text() == f"node0 ssh-ed25519 {OTHER}\nnode1 ssh-ed25519 {KEY}\n"


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=str(tmp_path)):
        keys_of("node1", [tmp_path])
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=r"file/known_hosts: Not a directory"):
        add_key("node1", "ssh-ed25519", _bytes(KEY), tmp_path / "file" / "known_hosts")


def _bytes(key: str) -> bytes:
    import base64

    return base64.b64decode(key)
