"""What the user gets wrong: one clear line, exit code 2 (3 for a host), nothing started, nothing left behind."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

RECORD = 3073
GOOD_JOB = "name: mine\nmodule: sknet.train\nconfig:\n  epoch_size: 2\n  lr_max: 0.1\n  save_checkpoint: true\n"


@pytest.fixture
def refused(cli):
    """Run a launch that must be refused; return its one line."""

    def launch(*arguments: str, code: int = 2) -> str:
        before = sorted(path.name for path in cli.folder.iterdir())
        done = cli("launch", *arguments, code=code)
        assert done.stdout == ""
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("ascendrun: "), done.stderr
        assert [path.name for path in (cli.folder / "runs").glob("*")] == [], "a run folder was left behind"
        assert sorted(set(path.name for path in cli.folder.iterdir()) - {"home", "runs"}) == sorted(
            set(before) - {"home"}
        )
        assert [path.name for path in (cli.folder / "home/runs").glob("*")] == []
        return lines[0]

    return launch


@pytest.mark.parametrize(
    ("devices", "says"),
    [
        ("0", "at least one device"),
        ("9", "this host offers 8 (0-7)"),
        ("3-1", "runs backwards"),
        ("8-9", "no device 8-9"),
        ("1,1", "named twice"),
        ("x", "neither a device number nor a range"),
        ("", "neither a device number"),
        ("-1", "neither a device number"),
        ("0-99999999999999999999", "neither"),
        ("0-999999999", "this host offers"),
    ],
)
def test_devices_that_are_not_there(refused, monkeypatch, cli, devices, says):
    assert says in refused("--backend", "cpu", f"--devices={devices}", "--", "true")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sknet5"], "no job named 'sknet5'; did you mean 'sknet50'?"),
        (["missing.yaml"], "missing.yaml: No such file"),
        (["--", "no-such-program"], "cannot run 'no-such-program': no such program in PATH"),
        (["--", "./nothing.sh"], "no such program (looked for"),
        (["--"], "no program after --"),
        (["sknet50", "--", "true"], "either a JOB or a program"),
        (["python", "x.py"], "ascendrun launch -- python x.py"),
        (["sknet50"], "needs a dataset: give --dataset DIR"),
        (["--set", "a=b", "--", "true"], "no `config:` to set"),
        (["--name", "a/b", "--", "true"], "a name is made of"),
        (["--name", "..", "--", "true"], "a name is made of"),
        (["--dataset", "nowhere", "--", "true"], "nowhere: no such file or folder"),
        (["--run-dir", "/proc/nowhere", "--", "true"], "cannot make the folder /proc/nowhere for the run"),
        (["--run-dir", "/dev/null", "--", "true"], "cannot make the folder /dev/null for the run"),
        (["--nonsense", "--", "true"], "--nonsense"),
        (["--master-port", "80", "--", "true"], "80 is not in the range"),
    ],
)
def test_words_that_mean_nothing(refused, arguments, says):
    assert says in refused(*arguments)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: [", "job.yaml:1:8: "),
        ("name: x\n\tmodule: y", "job.yaml:2:1: found character '\\t'"),
        (GOOD_JOB.replace("module", "modul"), "job.yaml:2:1: unknown field 'modul'; did you mean 'module'?"),
        (GOOD_JOB.replace("mine", "a b"), "name 'a b': a name is made of"),
        (GOOD_JOB + "devices: [1]\n", "job.yaml:7:"),
        (GOOD_JOB + "grace_s: soon\n", "job.yaml:7:1: grace_s: "),
        (GOOD_JOB + "name: again\n", "job.yaml:7:1: 'name' is given twice (first in line 1)"),
        (GOOD_JOB + "dataset:\n  layuot: x\n", "job.yaml:8:3: unknown field 'dataset.layuot'; did you mean 'layout'?"),
        (GOOD_JOB + "backend: gpu\n", "there is no backend 'gpu'"),
        (GOOD_JOB + "log_patterns: ['(']\n", "not a regular expression"),
        ("- a\n- b\n", "a job file is a mapping"),
        ("", "empty"),
        ("name: x\n", "either `module:`"),
        ("a: &a [*a]\n", "contains itself"),
        ("\x00", "job.yaml"),
    ],
)
def test_job_files_with_a_mistake_name_the_place(refused, cli, text, says):
    (cli.folder / "job.yaml").write_text(text)
    assert says in refused("job.yaml")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("lr=1", "has no such key; did you mean 'lr_max'?"),
        ("epoch_size=many", "epoch_size is a whole number (now 2)"),
        ("save_checkpoint=perhaps", "save_checkpoint is true or false"),
        ("lr_max=", "lr_max is a number"),
        ("x", "write --set KEY=VALUE"),
    ],
)
def test_settings_that_the_job_does_not_have(refused, cli, setting, says):
    (cli.folder / "job.yaml").write_text(GOOD_JOB)
    assert says in refused("job.yaml", "--set", setting)


def make_dataset(folder: Path, train: bytes = b"\0" * RECORD, test: bytes = b"\0" * RECORD) -> Path:
    for part, name, content in (
        ("cifar-10-batches-bin", "data_batch_1.bin", train),
        ("cifar-10-verify-bin", "test_batch.bin", test),
    ):
        (folder / part).mkdir(parents=True)
        (folder / part / name).write_bytes(content)
    return folder


def test_datasets_that_are_missing_or_damaged(refused, cli):
    assert "nowhere: no such folder" in refused("sknet50", "--dataset", "nowhere")
    (cli.folder / "empty").mkdir()
    assert "no folder cifar-10-batches-bin" in refused("sknet50", "--dataset", "empty")
    make_dataset(cli.folder / "cut", train=b"\0" * (10 * RECORD - 1))
    says = refused("sknet50", "--dataset", "cut")
    assert "data_batch_1.bin: 30,729 bytes is not a whole number of 3,073-byte records" in says
    make_dataset(cli.folder / "void", test=b"")
    assert "test_batch.bin: 0 bytes" in refused("sknet50", "--dataset", "void")
    hollow = make_dataset(cli.folder / "hollow")
    (hollow / "cifar-10-batches-bin/data_batch_1.bin").unlink()
    assert "no data_batch_*.bin in it" in refused("sknet50", "--dataset", "hollow")


def test_a_port_in_use_is_named(refused):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} is in use" in refused("--master-port", str(port), "--", "true")
        assert f"port {port} is in use" in refused("--master-port", str(port - 1), "--", "true")


def test_ascend_asked_for_where_there_is_none_is_the_hosts_fault(refused):
    if any(name.startswith("davinci") for name in os.listdir("/dev")):
        pytest.skip("this machine has an Ascend device")
    assert "no Ascend device" in refused("--backend", "ascend", "--", "true", code=3)


def test_a_second_run_of_a_name_is_refused_and_leaves_the_first_as_it_was(cli):
    cli("launch", "--name", "again", "--", "true")
    before = {path: path.stat().st_mtime_ns for path in cli.run_dir("again").rglob("*")}
    for place in ([], ["--run-dir", "elsewhere"]):
        done = cli("launch", "--name", "again", *place, "--", "true", code=2)
        assert "a run named 'again' exists already" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in cli.run_dir("again").rglob("*")} == before
    assert not (cli.folder / "elsewhere").exists()


def test_a_folder_that_holds_something_else_is_not_touched(cli):
    (cli.folder / "runs/mine").mkdir(parents=True)
    (cli.folder / "runs/mine/thesis.txt").write_text("ten years")
    assert "exists already" in cli("launch", "--name", "mine", "--", "true", code=2).stderr
    assert (cli.folder / "runs/mine/thesis.txt").read_text() == "ten years"
    assert not (cli.folder / "home/runs/mine").is_symlink()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 20 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_refused_before_anything_starts(cli, small_disk):
    (small_disk / "ballast").write_bytes(b"\0" * (10 << 20))
    done = cli("launch", "--run-dir", str(small_disk), "--", "true", code=2)
    assert f"the disk of {small_disk} is full" in done.stderr and "--run-dir" in done.stderr
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_a_disk_that_fills_up_during_a_run_costs_no_exit_code(cli, small_disk, program):
    words = program(
        f"import os, sys, time\nos.chdir({str(small_disk)!r})\n"
        "try:\n    open('ballast', 'wb').write(b'x' * (30 << 20))\nexcept OSError:\n    pass\n"
        "time.sleep(0.5)\nos._exit(9)"
    )
    launched = cli.start("launch", "--run-dir", str(small_disk), "--name", "full", "--", *words)
    from tests.conftest import wait_for

    wait_for(lambda: (small_disk / "ballast").exists() and os.statvfs(small_disk).f_bavail == 0)
    with pytest.raises(subprocess.TimeoutExpired):
        launched.communicate(timeout=3)  # the end cannot be written, so it cannot be told
    (small_disk / "ballast").unlink()
    out, err = launched.communicate(timeout=30)
    assert launched.returncode == 1 and "exit code 9" in out, out + err
    seqs = [event["seq"] for event in cli.events_in(small_disk / "full")]
    assert seqs == list(range(1, len(seqs) + 1)), "no event was lost"


@pytest.mark.parametrize("verb", ["status", "logs", "stop", "eval", "collect"])
def test_verbs_without_any_run_say_so(cli, verb):
    done = cli(verb, code=0 if verb == "status" else 2)
    assert "no runs yet" in done.stdout + done.stderr


@pytest.mark.parametrize("verb", ["status", "logs", "stop", "eval", "collect"])
def test_verbs_name_the_nearest_run(cli, verb):
    cli("launch", "--name", "sknet-first", "--", "true")
    assert "no run named 'sknet-frist'; did you mean 'sknet-first'?" in cli(verb, "sknet-frist", code=2).stderr


def test_damaged_records_are_named_and_do_not_hide_other_runs(cli):
    cli("launch", "--name", "good", "--", "true")
    cli("launch", "--name", "bad", "--", "true")
    (cli.run_dir("bad") / "plan.json").write_text('{"run_id": ')
    assert "plan.json: damaged" in cli("status", "bad", code=2).stderr
    assert "good" in cli("status").stdout


def test_an_unknown_verb_names_the_nearest(cli):
    assert "did you mean 'launch'?" in cli("lunch", code=2).stderr
