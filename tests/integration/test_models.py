"""`ascendrun export` and `ascendrun predict` with real processes: a job's own modules, and SKNet's."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from pathlib import Path

import pytest

from tests.conftest import wait_for

JOB = """
name: mine
module: own_model
export: {module: own_model, config: {level: 3}}
predict: {module: own_model}
"""
MODULE = """
import json, os, signal, subprocess, sys, time
words = sys.argv[1:]
if os.environ.get("SLEEP"):
    open("started", "w").write(str(os.getpid()))
    try:
        time.sleep(100)
    except KeyboardInterrupt:
        if os.environ["SLEEP"] == "deaf":
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            helper = subprocess.Popen(["sleep", "100"])  # holds on to our output
            open("started", "a").write(f" {helper.pid}")
            open("deaf", "w").close()
            time.sleep(100)
        sys.exit(130)
if "--json" not in words:
    print("exported", *words, os.environ["OMP_NUM_THREADS"], os.environ.get("RANK_TABLE_FILE"))
for picture in words[words.index("--") + 1:] if "--" in words else []:
    if picture == "bad.png":
        print(json.dumps({"picture": picture, "error": "bad.png: no picture"}))
    elif picture == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    else:
        guesses = [{"class": "cat", "label": 0, "probability": 0.9}, {"class": "truck", "label": 1, "probability": 0.1}]
        print(json.dumps({"picture": picture, "classes": guesses}), flush=True)
sys.exit(2 if "bad.png" in words else 0)
"""


@pytest.fixture
def own(cli, tmp_path):
    """The command line, a job of its own with an installed module, and a model file."""
    installed = tmp_path / "installed"
    installed.mkdir()
    (installed / "own_model.py").write_text(MODULE)
    cli.environment["PYTHONPATH"] = str(installed)
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "a.ckpt").write_text("weights")
    return cli


def test_export_hands_the_checkpoint_to_the_module_of_the_job(own, tmp_path):
    own.environment.update(RANK_TABLE_FILE="/left/over.json", OMP_NUM_THREADS="7")
    done = own("export", "a.ckpt", "--job", "job.yaml", "--format", "ONNX", "-o", "out.onnx", "--force")
    assert done.stdout.split() == [
        "exported", "--level=3", f"--checkpoint_path={tmp_path}/a.ckpt", "--file_format=ONNX",
        f"--file_name={tmp_path}/out.onnx", "--force", "7", "None",
    ]  # fmt: skip
    assert "a.ckpt: taken for one of job job.yaml" in done.stderr


def test_predict_shows_a_table_or_json_and_gives_back_the_exit_code(own):
    own.environment["COLUMNS"] = "80"
    done = own("predict", "a.ckpt", "x.png", "bad.png", "--job", "job.yaml", code=2)
    assert done.stdout == "x.png\n  cat     90.00%\n  truck   10.00%\n"
    assert "ascendrun: bad.png: no picture" in done.stderr
    done = own("predict", "a.ckpt", "x.png", "bad.png", "--job", "job.yaml", "--json", code=2)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["picture"] for record in said] == ["x.png", "bad.png"] and done.stderr == ""


def test_names_of_pictures_cannot_reach_into_the_terminal(own):
    done = own("predict", "a.ckpt", "--job", "job.yaml", "--", "-\x1b[31m.png", os.fsdecode(b"\xff.png"))
    assert done.stdout.splitlines()[0] == "-?[31m.png" and "\x1b" not in done.stdout
    assert done.stdout.splitlines()[3] == "?.png"


@pytest.mark.parametrize(
    "said", ["[" * 20_000, '{"picture": "x", "classes": [{"class": "a", "probability": 1%s}]}' % ("0" * 400)]
)
def test_a_line_that_is_no_prediction_is_shown_as_it_is(own, tmp_path, said):
    (tmp_path / "installed" / "own_model.py").write_text(f"print({said!r})")
    assert own("predict", "a.ckpt", "x.png", "--job", "job.yaml").stdout == said + "\n"


def test_a_module_that_crashes_is_told_with_its_signal(own):
    done = own("predict", "a.ckpt", "x.png", "crash", "--job", "job.yaml", code=1)
    assert done.stdout.startswith("x.png") and "ended by SIGSEGV" in done.stderr


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def started(folder: Path) -> int:
    def look() -> "int | None":
        try:
            return int((folder / "started").read_text())
        except (OSError, ValueError):
            return None

    pid: int = wait_for(look)
    return pid


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_child_and_us(own, tmp_path, number):
    own.environment["SLEEP"] = "yes"
    process = own.start("export", "a.ckpt", "--job", "job.yaml")
    pid = started(tmp_path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "stopping" in errors
    assert not is_alive(pid)


def test_the_second_ctrl_c_kills_a_child_that_does_not_end_and_what_it_started(own, tmp_path):
    own.environment["SLEEP"] = "deaf"
    process = own.start("predict", "a.ckpt", "x.png", "--job", "job.yaml")
    started(tmp_path)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: (tmp_path / "deaf").exists())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    pid, helper = map(int, (tmp_path / "started").read_text().split())
    assert not is_alive(pid)
    wait_for(lambda: not is_alive(helper))


def test_no_child_outlives_us_when_we_are_killed(own, tmp_path):
    own.environment["SLEEP"] = "yes"
    process = own.start("export", "a.ckpt", "--job", "job.yaml")
    pid = started(tmp_path)
    process.kill()
    process.communicate(timeout=30)
    wait_for(lambda: not is_alive(pid))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "nowhere.ckpt"], "no run named 'nowhere.ckpt'"),
        (["export"], "there are no runs yet"),
        (["export", "a.ckpt", "--job", "sknet"], "no job named 'sknet'"),
        (["export", "a.ckpt", "--format", "pb"], "'pb' is not one of"),
        (["predict", "a.ckpt"], "Missing argument 'PICTURES...'"),
        (["predict", "a.ckpt", "x.png", "--top", "0"], "0 is not in the range x>=1"),
        (["predict", "a.onxx", "x.png"], "no run named 'a.onxx'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(own, words, said):
    done = own(*words, code=2)
    assert said in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.timeout(300)
def test_sknet_is_exported_and_all_its_forms_predict_alike(cli, tmp_path):
    if importlib.util.find_spec("mindspore") is None:
        pytest.skip("MindSpore is not installed for this Python")
    import numpy as np
    from PIL import Image

    from tests.sknet.models import save_trained

    rng = np.random.default_rng(1)
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (50, 70, 3), np.uint8)).save(tmp_path / f"pictures/{number}.jpg")
    checkpoint = save_trained(tmp_path)
    for file_format in ("onnx", "mindir"):
        done = cli("export", checkpoint.name, "--format", file_format)
        assert "checked: " in done.stdout and (tmp_path / f"{checkpoint.stem}.{file_format}").is_file()
    said = []
    for suffix in ("ckpt", "onnx", "mindir"):
        done = cli("predict", f"{checkpoint.stem}.{suffix}", "pictures", "--json", "--top", "10")
        said.append([json.loads(line) for line in done.stdout.splitlines()])
    for records in said:
        assert [record["picture"] for record in records] == [f"pictures/{number}.jpg" for number in range(3)]
        for record, reference in zip(records, said[0]):
            found = {guess["class"]: guess["probability"] for guess in record["classes"]}
            wanted = {guess["class"]: guess["probability"] for guess in reference["classes"]}
            assert found == pytest.approx(wanted, abs=1e-5)
    assert "AIR can only be exported on an Ascend device" in cli(
        "export", checkpoint.name, "--format", "air", code=2
    ).stderr  # fmt: skip
