"""SSH as it goes wrong: keys, hosts, limits of sshd and jump hosts, on the hosts of the test bed."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.errors import HostError, SpecError
from orchestrator.inventory import HostEntry
from orchestrator.transport.fanout import in_parallel, open_all
from orchestrator.transport.ssh_dial import Dialer
from tests.conftest import wait_for
from tests.testbed.bed import Host, Testbed

Dial = Callable[..., Dialer]


@pytest.fixture
def dialer(testbed: Testbed, tmp_path: Path) -> Iterator[Dial]:
    """Make a Dialer for an SSH configuration of its own: lines of *config* come first, as they count first."""
    made: "list[Dialer]" = []

    def make(config: str = "", known_hosts: "str | None" = None, **options: bool) -> Dialer:
        known = tmp_path / "known_hosts"
        known.write_text(testbed.known_hosts.read_text() if known_hosts is None else known_hosts)
        text = testbed.ssh_config.read_text().replace(str(testbed.known_hosts), str(known))
        (tmp_path / "config").write_text(f"{config}\n{text}")
        made.append(Dialer(tmp_path / "config", **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def told(dialer: Dialer, host: "Host | str", **said: "str | int") -> str:
    """Return what is told of a host that cannot be reached: one line with its name."""
    name = host if isinstance(host, str) else host.name
    with pytest.raises(HostError) as caught:
        dialer.dial(HostEntry(name, name, **said)).close()  # type: ignore[arg-type]
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(f"{name}: ") and "\n" not in str(caught.value)
    return str(caught.value)


def works(dialer: Dialer, host: Host, **said: "str | int") -> bool:
    with dialer.dial(HostEntry(host.name, host.name, **said)) as ssh:  # type: ignore[arg-type]
        return ssh.run(["uname", "-n"]).stdout.decode().strip() == host.name


def host_key(testbed: Testbed, host: Host) -> "list[str]":
    line = next(line for line in testbed.known_hosts.read_text().splitlines() if host.address in line.split()[0])
    return line.split()[1:3]


# --- host keys ---


def test_an_unknown_host_key_is_refused_with_its_fingerprint(testbed: Testbed, dialer: Dial) -> None:
    host = testbed.hosts[0]
    message = told(dialer(known_hosts=""), host)
    (testbed.home / "one_key").write_text(" ".join(host_key(testbed, host)))
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(testbed.home / "one_key")], check=True, capture_output=True, text=True
    )
    assert shown.stdout.split()[1] in message
    assert "--accept-new-host-keys" in message


def test_a_new_host_key_is_accepted_where_that_is_wanted_and_known_from_then_on(
    testbed: Testbed, dialer: Dial, tmp_path: Path
) -> None:
    host = testbed.hosts[0]
    assert works(dialer(known_hosts="", accept_new_host_keys=True), host)
    added = (tmp_path / "known_hosts").read_text()
    assert added == f"{host.address} {' '.join(host_key(testbed, host))}\n"
    assert works(dialer(known_hosts=added), host)


@pytest.mark.parametrize("accept_new_host_keys", [False, True])
def test_a_changed_host_key_is_refused_with_line_and_remedy(
    testbed: Testbed, dialer: Dial, tmp_path: Path, accept_new_host_keys: bool
) -> None:
    first, second = testbed.hosts[:2]
    known = f"# keys\n{first.address} {' '.join(host_key(testbed, second))}\n"
    message = told(dialer(known_hosts=known, accept_new_host_keys=accept_new_host_keys), first)
    assert f"has changed: {tmp_path / 'known_hosts'} line 2" in message
    assert (tmp_path / "known_hosts").read_text() == known
    remedy = message.partition("`")[2].rpartition("`")[0]
    subprocess.run(["sh", "-c", remedy], check=True, capture_output=True)
    assert works(dialer(known_hosts=(tmp_path / "known_hosts").read_text(), accept_new_host_keys=True), first)


def test_a_revoked_host_key_is_refused(testbed: Testbed, dialer: Dial) -> None:
    host = testbed.hosts[0]
    key = " ".join(host_key(testbed, host))
    assert "revoked" in told(dialer(known_hosts=f"{host.address} {key}\n@revoked * {key}\n"), host)


def test_a_known_key_of_another_kind_does_not_make_a_host_unknown(testbed: Testbed, dialer: Dial) -> None:
    host = testbed.hosts[0]
    blob = b"\0\0\0\x13ecdsa-sha2-nistp256\0\0\0\x08nistp256\0\0\0\x41\x04" + b"x" * 64
    known = f"{host.address} ecdsa-sha2-nistp256 {base64.b64encode(blob).decode()}\n"
    assert "has changed" in told(dialer(known_hosts=known, accept_new_host_keys=True), host)


# --- who we are ---


def new_key(path: Path, *options: str) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path), *options], check=True)
    return path


def test_a_key_that_the_host_does_not_know_is_named(testbed: Testbed, dialer: Dial, tmp_path: Path) -> None:
    wrong = new_key(tmp_path / "wrong key")
    message = told(dialer(), testbed.hosts[0], identity_file=str(wrong))
    assert f"refuses root with {wrong}; " in message


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "no such file"), ("no key\n", "no private key"), ("", "no private key")]
)
def test_a_key_file_that_is_none_is_named(
    testbed: Testbed, dialer: Dial, tmp_path: Path, content: "str | None", reason: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    assert f"{file} ({reason})" in told(dialer(), testbed.hosts[0], identity_file=str(file))


def test_a_key_with_a_passphrase_is_not_asked_for_where_nobody_is(
    testbed: Testbed, dialer: Dial, tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    shutil.copy(testbed.identity_file, locked)
    locked.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret words", "-f", str(locked)], check=True)
    message = told(dialer(), testbed.hosts[0], identity_file=str(locked))
    assert f"{locked} (locked by a passphrase" in message and "ssh-add" in message


def test_the_agent_gives_keys(testbed: Testbed, dialer: Dial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sock = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(sock)], stdout=subprocess.PIPE)
    try:
        assert agent.stdout and agent.stdout.readline()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(sock))
        subprocess.run(["ssh-add", "-q", str(testbed.identity_file)], check=True)
        config = f"IdentitiesOnly no\nHost *\n  IdentityFile {new_key(tmp_path / 'wrong')}\n"
        assert works(dialer(f"Host *\n  {config}"), testbed.hosts[0], identity_file=str(tmp_path / "wrong"))
    finally:
        agent.terminate()
        agent.wait()
        agent.stdout.close() if agent.stdout else None


def test_a_certificate_beside_a_key_is_shown(testbed: Testbed, dialer: Dial, tmp_path: Path) -> None:
    authority, key = new_key(tmp_path / "authority"), new_key(tmp_path / "key")
    host = testbed.hosts[0]
    assert "refuses root" in told(dialer(), host, identity_file=str(key))
    subprocess.run(["ssh-keygen", "-q", "-s", str(authority), "-I", "me", "-n", "root", str(key) + ".pub"], check=True)
    line = "cert-authority " + (tmp_path / "authority.pub").read_text()
    testbed.exec(
        host, ["sh", "-c", "cp ~/.ssh/authorized_keys /tmp/before && cat >> ~/.ssh/authorized_keys"], input=line
    )
    try:
        assert works(dialer(), host, identity_file=str(key))
    finally:
        testbed.exec(host, ["sh", "-c", "cat /tmp/before > ~/.ssh/authorized_keys"])


# --- hosts that do not answer ---


def test_a_host_that_is_down_is_told_within_the_time_to_connect(testbed: Testbed, dialer: Dial) -> None:
    testbed.power_cut(testbed.hosts[1])
    began = time.monotonic()
    assert "does not answer within 10 s: is it up?" in told(dialer(), testbed.hosts[1])
    assert time.monotonic() - began < 15


def test_a_host_without_sshd_is_told_at_once(testbed: Testbed, dialer: Dial) -> None:
    testbed.stop_sshd(testbed.hosts[1])
    assert "port 22 refuses connections" in told(dialer(), testbed.hosts[1])


def test_an_sshd_that_hangs_is_told_as_such(testbed: Testbed, dialer: Dial) -> None:
    testbed.hang(testbed.hosts[1])
    assert "takes connections and says nothing within 10 s" in told(dialer(), testbed.hosts[1])


@pytest.mark.parametrize(
    ("name", "reason"),
    [("no-such-host.invalid", "no host by the name"), ("x" * 70, "cannot reach x"), ("a..b", "cannot reach a..b")],
)
def test_a_name_that_is_not_found_is_told(dialer: Dial, name: str, reason: str) -> None:
    assert reason in told(dialer(), name)


@pytest.mark.parametrize(
    ("words", "reason"), [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no SSH server: it says 'HTTP/1.1 400"),
                          (b"\xff\x00\x1b[31m" * 50, "is no SSH server")]
)  # fmt: skip
def test_a_server_that_is_no_sshd_is_told(dialer: Dial, words: bytes, reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(words)
                connection.recv(1000)

        thread = threading.Thread(target=answer)
        thread.start()
        assert reason in told(dialer(), "127.0.0.1", port=server.getsockname()[1])
        thread.join()


def test_a_host_that_vanishes_under_a_program_is_told(testbed: Testbed, dialer: Dial) -> None:
    host = testbed.hosts[1]
    with dialer().dial(HostEntry(host.name, host.name)) as ssh:
        crash = threading.Timer(0.3, testbed.crash, [host])
        crash.start()
        with pytest.raises(HostError, match=f"^{host.name}: .*the connection is lost"):
            ssh.run(["sleep", "60"])
        crash.join()
        with pytest.raises(HostError, match="the connection is lost"):
            ssh.run(["true"])


# --- what sshd allows ---


def test_sixteen_programs_at_once_share_one_connection(testbed: Testbed, dialer: Dial) -> None:
    host = testbed.hosts[0]
    with dialer().dial(HostEntry(host.name, host.name)) as ssh:
        done = in_parallel(range(16), lambda number: ssh.run(["sh", "-c", f"sleep 0.3; echo {number}"]), at_once=16)
    said = [one.stdout for one in done if not isinstance(one, HostError)]
    assert said == [f"{number}\n".encode() for number in range(16)]


def test_closing_ends_the_programs_of_a_connection_that_has_no_session_left(testbed: Testbed, dialer: Dial) -> None:
    host = testbed.hosts[0]
    running = ["sh", "-c", "pgrep -fc '^sleep 100467' || true"]
    ssh = dialer().dial(HostEntry(host.name, host.name))

    def run(_: int) -> int:
        return ssh.run(["sleep", "100467"]).code

    running_all = threading.Thread(target=in_parallel, args=(range(16), run))
    running_all.start()
    wait_for(lambda: int(testbed.exec(host, running).stdout) >= 9)
    ssh.close()
    running_all.join(20)
    assert not running_all.is_alive()
    wait_for(lambda: int(testbed.exec(host, running).stdout) == 0)


def test_fewer_sessions_than_usual_are_waited_for(testbed: Testbed, dialer: Dial) -> None:
    host = testbed.hosts[2]
    testbed.exec(host, ["sh", "-c", "cp /etc/ssh/sshd_config /tmp/before; echo MaxSessions 2 >> /etc/ssh/sshd_config"])
    try:
        testbed.stop_sshd(host)
        testbed.start_sshd(host)
        with dialer().dial(HostEntry(host.name, host.name)) as ssh:
            done = in_parallel(range(8), lambda _: ssh.run(["sleep", "0.1"]), at_once=8)
        assert [one for one in done if isinstance(one, HostError)] == []
    finally:
        testbed.exec(host, ["sh", "-c", "cat /tmp/before > /etc/ssh/sshd_config"])
        testbed.stop_sshd(host)
        testbed.start_sshd(host)


def test_sixty_four_connects_at_once_to_one_sshd_all_come_through(testbed: Testbed, dialer: Dial) -> None:
    host, one = testbed.hosts[0], dialer()

    def connect(_: int) -> int:
        with one.dial(HostEntry(host.name, host.name)) as ssh:
            return ssh.run(["true"]).code

    done = in_parallel(range(64), connect, at_once=64)
    assert [code for code in done if code != 0] == []


# --- the way there ---


def test_a_jump_host_leads_to_hosts_that_only_it_reaches(testbed: Testbed, dialer: Dial) -> None:
    first, second, third = testbed.hosts[:3]
    one = dialer()
    assert works(one, second, jump=first.name)
    assert works(one, third, jump=f"root@{first.name}:22,{second.name}")
    assert works(dialer(f"Host {third.name}\n  ProxyJump {first.name}\n"), third)
    seen = testbed.exec(third, ["sh", "-c", "echo $SSH_CONNECTION"]).stdout
    with one.dial(HostEntry(third.name, third.name, jump=first.name)) as ssh:
        seen = ssh.run(["sh", "-c", "echo $SSH_CONNECTION"]).stdout.decode()
    assert seen.split()[0] == first.address


def test_what_fails_on_the_way_is_told_of_the_host_that_failed(testbed: Testbed, dialer: Dial) -> None:
    first, second = testbed.hosts[:2]
    assert f"by its jump host {first.name}: " in told(dialer(known_hosts=""), second, jump=first.name)
    loop = f"Host loop\n  HostName {first.address}\n  ProxyJump pool\nHost pool\n  ProxyJump loop\n"
    one = dialer(loop)
    assert f"the jump host {first.name} does not reach" in told(one, second.name, jump=first.name, port=1)
    assert "in a circle" in told(one, "loop")


def test_an_ssh_configuration_is_followed_into_its_includes(testbed: Testbed, dialer: Dial, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "one.conf").write_text("Host nickname\n  Port 23\n")
    one = dialer(f"Include {tmp_path}/more/*.conf\nHost nickname\n  HostName {testbed.hosts[0].address}\n  Port 24\n")
    assert f"{testbed.hosts[0].address} port 23 refuses" in told(one, "nickname")


def test_an_alias_is_looked_up_whether_it_is_a_name_or_an_address(testbed: Testbed, dialer: Dial) -> None:
    first, second, third = testbed.hosts[:3]
    one = dialer(f"Host worker\n  HostName {first.address}\n  Port 24\nHost {second.address}\n  Port 25\n")
    assert f"{first.address} port 24 refuses" in told(one, "worker")  # `--host worker`
    for entry, said in [
        (HostEntry("a", "worker"), f"{first.address} port 24"),
        (HostEntry("worker", second.address), f"{second.address} port 25"),  # of its address more is known
        (HostEntry("worker", third.address), f"{third.address} port 24"),  # the file says where, the alias how
        (HostEntry("worker", third.address, port=26), f"{third.address} port 26"),
    ]:
        with pytest.raises(HostError, match=f"^{entry.name}: {said} refuses"):
            one.dial(entry)


@pytest.mark.parametrize("text", ["Host 'a\n", "\x00\xff", "Include {file}\n", "Match nothing\n"])
def test_an_ssh_configuration_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config"
    file.write_text(text.format(file=file), encoding="latin-1")
    with pytest.raises(SpecError, match=str(file)):
        Dialer(file)


def test_a_proxy_command_is_not_run_and_said_so(dialer: Dial, tmp_path: Path) -> None:
    assert "write a ProxyJump" in told(dialer(f"Host p\n  ProxyCommand touch {tmp_path}/ran\n"), "p")
    assert not (tmp_path / "ran").exists()


def test_a_fleet_has_the_hosts_that_answer_and_the_reasons_of_the_others(testbed: Testbed) -> None:
    testbed.stop_sshd(testbed.hosts[1])
    entries = [HostEntry(host.name, host.name) for host in testbed.hosts]
    with open_all(entries, ssh_config=testbed.ssh_config) as fleet:
        names = fleet.each(lambda entry, transport: transport.run(["uname", "-n"]).stdout.decode().strip())
    assert list(names) == [host.name for host in testbed.hosts]
    assert [name for name, said in names.items() if said == name] == [entries[i].name for i in (0, 2, 3)]
    assert list(fleet.errors) == [testbed.hosts[1].name]
