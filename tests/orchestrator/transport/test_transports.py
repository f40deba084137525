"""What all transports do alike: here, and over a real sshd."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import HostError
from orchestrator.inventory import HostEntry
from orchestrator.transport import base
from orchestrator.transport.base import Transport
from orchestrator.transport.local import Local
from orchestrator.transport.ssh_dial import Dialer
from tests.conftest import wait_for
from tests.testbed.bed import Testbed

# What shells, programs and file systems may take for something else than text.
HOSTILE = ["", " ", "-n", "--", "$(id)", "`id`", "a b", "it's", '"', "\\", "\n", "a\nb\n", "!x", "*", "~", "é",
           "\udcff", "日本", ";true", "&", "%s", "\t", "\r\n", "\x7f\x1b[31m", "#", "$$", "{a,b}", "\\0101",
           "if"]  # fmt: skip
words = st.lists(
    st.sampled_from(HOSTILE) | st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20), max_size=6
)
names = (
    st.sampled_from([word for word in HOSTILE if word not in ("", "/")])
    | st.text(st.characters(exclude_characters="\0/", codec="utf-8"), min_size=1, max_size=40)
).filter(lambda name: name not in (".", "..") and len(os.fsencode(name)) <= 200)


@pytest.fixture(scope="module", params=["local", "ssh"])
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    if request.param == "local":
        with Local() as local:
            yield local
        return
    testbed: Testbed = request.getfixturevalue("testbed")
    dialer = Dialer(testbed.ssh_config)
    with dialer.dial(HostEntry("far", testbed.hosts[0].name)) as ssh:
        yield ssh
    dialer.close()


@pytest.fixture(scope="module")
def folder(transport: Transport, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("a 'folder")) if isinstance(transport, Local) else "/tmp/a 'folder"
    assert transport.run(["mkdir", "-p", "--", path]).code == 0
    return path


@settings(max_examples=60)
@given(words)
def test_words_arrive_as_they_are(transport: Transport, words: "list[str]") -> None:
    done = transport.run(["printf", "%s\\0", "", *words])
    assert done.stdout == b"".join(os.fsencode(word) + b"\0" for word in ["", *words])
    assert (done.code, done.stderr) == (0, b"")


@settings(max_examples=40)
@given(names, st.binary(max_size=2000))
def test_files_of_any_name_come_back_as_they_went(transport: Transport, folder: str, name: str, content: bytes) -> None:
    path = f"{folder}/{name}"
    transport.put(content, path, 0o640)
    assert b"".join(transport.get(path)) == content
    listed = transport.run(["find", folder, "-type", "f", "-printf", "%m %f\\0"]).stdout
    assert listed == b"640 " + os.fsencode(name) + b"\0"
    assert transport.run(["rm", "--", path]).code == 0


@settings(max_examples=10)
@given(names)
def test_a_program_of_any_name_is_that_program(transport: Transport, folder: str, name: str) -> None:
    path = f"{folder}/{name}"
    transport.put(b"#!/bin/sh\necho ran\n", path, 0o755)
    assert transport.run([path]).stdout == b"ran\n"
    transport.run(["rm", "--", path])


def test_a_relative_path_with_a_dash_is_no_option(transport: Transport) -> None:
    transport.put(b"x", "-rf")
    assert b"".join(transport.get("-rf")) == b"x"
    assert transport.run(["rm", "--", "-rf"]).code == 0


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 3"], 3),
        (["no-such-program"], 127),
        (["/etc/passwd"], 126),
        (["sh", "-c", "kill -9 $$"], 128 + signal.SIGKILL),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM),
    ],
)
def test_how_a_program_ended_is_its_code(transport: Transport, argv: "list[str]", code: int) -> None:
    assert transport.run(argv).code == code


def test_both_outputs_are_kept_apart(transport: Transport) -> None:
    done = transport.run(["sh", "-c", "echo out; echo err >&2"])
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_input_of_any_size_goes_through_a_program_that_answers_while_it_reads(transport: Transport) -> None:
    data = os.urandom(1 << 20) * 12
    assert transport.run(["cat"], input=data).stdout == data


def test_a_program_that_reads_nothing_of_its_input_is_no_trouble(transport: Transport) -> None:
    assert transport.run(["true"], input=b"x" * (8 << 20)).code == 0


def test_floods_on_standard_error_stop_nothing_and_their_end_is_kept(transport: Transport) -> None:
    done = transport.run(["sh", "-c", "yes | head -c 9000000 >&2; echo last >&2; echo done"])
    assert done.stdout == b"done\n"
    assert len(done.stderr) <= base.STDERR_KEPT_BYTES
    assert done.last_words() == "last"


def test_a_program_that_says_too_much_is_ended(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MOST_OUTPUT_BYTES", 2 << 20)
    with pytest.raises(HostError, match="says more than 2 MiB"):
        transport.run(["yes", "flood of a test"])
    wait_for(lambda: not _running(transport, "^yes flood of a test"))


def test_a_program_that_takes_too_long_is_ended_with_all_that_it_started(transport: Transport) -> None:
    began = time.monotonic()
    with pytest.raises(HostError, match=r"not done after 0\.3 s"):
        transport.run(["sh", "-c", "sleep 100307 & trap '' TERM; wait; sleep 100307"], timeout_s=0.3)
    assert time.monotonic() - began < 6
    wait_for(lambda: not _running(transport, "^sh -c sleep 100307"))
    wait_for(lambda: not _running(transport, "^sleep 100307"))


def test_an_interrupt_ends_the_program_too(transport: Transport) -> None:
    # Python notices a signal late that comes between two steps; one that finds it waiting, at once.
    began = threading.Event()

    def interrupt() -> None:
        assert began.wait(30)
        time.sleep(0.5)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # as Ctrl-C does

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt), transport.stream(["sh", "-c", "echo begun; exec sleep 100317"]) as stream:
        assert stream.read(30) == b"begun\n"
        began.set()
        stream.read(60)
    thread.join()
    wait_for(lambda: not _running(transport, "^sleep 100317"))


def test_a_stream_is_talked_with_while_it_runs(transport: Transport) -> None:
    with transport.stream(["cat"]) as stream:
        for word in (b"one", "zwölf".encode()):
            stream.write(word)
            assert stream.read(10) == word
        with pytest.raises(TimeoutError):
            stream.read(0.05)
        stream.end_input()
        assert stream.read(10) == b""
        assert stream.wait(10).code == 0


def test_what_runs_in_a_stream_ends_with_it(transport: Transport) -> None:
    with transport.stream(["sleep", "100327"]):
        wait_for(lambda: _running(transport, "^sleep 100327"))
    wait_for(lambda: not _running(transport, "^sleep 100327"))


def test_a_file_is_written_whole_or_not_at_all(transport: Transport, folder: str) -> None:
    with pytest.raises(HostError, match=r"cannot write /nowhere/file: .*(No such|nonexistent)"):
        transport.put(b"x", "/nowhere/file")
    transport.put(b"old", f"{folder}/file", 0o600)
    with pytest.raises(HostError):
        # As where the connection breaks: less comes than was announced.
        done = transport.run(
            ["sh", "-c", base._PUT, "sh", f"{folder}/file", f"{folder}/part", "600", "9"], input=b"new"
        )
        raise HostError(str(done.code)) if done.code else AssertionError("half a file was taken for a whole one")
    assert b"".join(transport.get(f"{folder}/file")) == b"old"
    assert transport.run(["ls", "-A", folder]).stdout == b"file\n"
    transport.run(["rm", f"{folder}/file"])


def test_a_file_that_is_not_there_is_named(transport: Transport) -> None:
    with pytest.raises(HostError, match=r"cannot read /nowhere: .*No such file"):
        list(transport.get("/nowhere"))


@pytest.mark.parametrize("argv", [["a\0b"], ["true", "\0"]])
def test_words_that_no_program_can_be_given_are_refused(transport: Transport, argv: "list[str]") -> None:
    with pytest.raises(HostError, match=r"NUL|null"):
        transport.run(argv)


def _running(transport: Transport, pattern: str) -> bool:
    """Tell whether a program runs there whose command line matches; pgrep never finds itself."""
    return transport.run(["pgrep", "-f", "--", pattern]).code == 0


def test_an_end_of_file_that_comes_after_its_channel_has_closed_costs_no_connection(testbed: Testbed) -> None:
    dialer = Dialer(testbed.ssh_config)
    with contextlib.closing(dialer), dialer.dial(HostEntry("far", testbed.hosts[0].name)) as ssh:
        channel = ssh._connection.open_session()
        channel.exec_command("sleep 0.3")
        late = channel._send_eof()  # as another thread makes it, which is held up then
        wait_for(lambda: channel.closed)
        channel.transport._send_user_message(late)
        assert ssh.run(["echo", "alive"]).stdout == b"alive\n"
