"""`ascendrun eval` and what `status`, `collect` and `export` know of it afterwards: a job's own module, and SKNet's."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

JOB = """
name: mine
module: own_job
evaluation: {module: own_job, config: {level: 3}}
config: {level: 1, folder: ""}
"""
# It trains by writing checkpoints, whose text is what evaluation finds in them.
MODULE = """
import json, os, sys
keys = dict(word[2:].split("=", 1) for word in sys.argv[1:])
told = open(os.environ["ASCENDRUN_PROGRESS"], "a")
def tell(**fact):
    print(json.dumps(fact), file=told, flush=True)
if "checkpoint_path" not in keys:
    folder = keys.get("folder") or "ckpt"
    os.makedirs(folder, exist_ok=True)
    for epoch, score in enumerate((0.5, 0.75, 0.75), 1):
        path = os.path.abspath(f"{folder}/net-{epoch}_9.ckpt")
        with open(path, "w") as file:
            json.dump({"top_1_accuracy": score, "top_5_accuracy": 0.9, "loss": 1 / epoch}, file)
        tell(kind="checkpoint", path=path, epoch=epoch, step=9)
    sys.exit()
where = keys["checkpoint_path"]
folder, names = (where, sorted(os.listdir(where))) if os.path.isdir(where) else os.path.split(where)
code = 0
for name in names if os.path.isdir(where) else [names]:
    if not name.endswith(".ckpt"):
        continue
    path = os.path.join(folder, name)
    try:
        scores = json.load(open(path))
    except ValueError:
        tell(kind="evaluation", checkpoint=path, error=f"{path} is damaged")
        code = 2
        continue
    kept = os.path.join(folder, name[:-5] + ".eval.json")
    with open(kept, "w") as file:
        json.dump({"sha256": "s", "per_class": [{"name": "cat", "pictures": 4, "accuracy": 0.25}]}, file)
    tell(kind="evaluation", checkpoint=path, epoch=int(name[4]), step=9, sha256="s", json=kept, level=keys["level"],
         **scores)
sys.exit(code)
"""


@pytest.fixture
def trained(cli, tmp_path):
    """The command line, after a run `net` of a job of its own that left three checkpoints."""
    installed = tmp_path / "installed"
    installed.mkdir()
    (installed / "own_job.py").write_text(MODULE)
    cli.environment["PYTHONPATH"] = str(installed)
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "data").mkdir()
    cli("launch", "job.yaml", "--name", "net")
    return cli


def evaluate(cli, *words, code=0):
    return cli("eval", *words, "--dataset", "data", code=code)


def test_a_run_is_evaluated_whole_with_lines_for_programs_and_a_table_for_people(trained):
    shown = evaluate(trained, "net").stdout.splitlines()
    folder = trained.run_dir("net") / "train/ckpt"
    assert shown[0] == f"result: {{'top_5_accuracy': 0.9, 'top_1_accuracy': 0.5}} ckpt={folder}/net-1_9.ckpt"
    assert [line.split() for line in shown[3:]] == [
        ["checkpoint", "epoch", "step", "top-1", "top-5", "loss"],
        ["net-1_9.ckpt", "1", "9", "50.00%", "90.00%", "1"],
        ["net-2_9.ckpt", "2", "9", "75.00%", "90.00%", "0.5"],
        ["net-3_9.ckpt", "3", "9", "75.00%", "90.00%", "0.3333", "best"],
    ]
    assert not (folder / "best.json").exists(), "nobody asked for a mark"


def test_status_and_collect_know_the_best_afterwards_and_export_takes_it(trained):
    assert "top-1" not in trained("status").stdout
    evaluate(trained, "net", "--best")
    best = trained.run_dir("net") / "train/ckpt/net-3_9.ckpt"
    assert json.loads((best.parent / "best.json").read_text())["checkpoint"] == best.name
    [head, line] = trained("status").stdout.splitlines()
    assert "top-1" in head and "75.00%" in line
    assert f"best checkpoint: {best} (top-1 75.00%, top-5 90.00%, loss 0.3333)" in trained("status", "net").stdout
    state = trained.status("net")
    assert len(state["evaluations"]) == 3 and state["best"]["checkpoint"] == str(best)
    trained("collect", "net", "-o", "out")
    manifest = json.loads((trained.folder / "out/manifest.json").read_text())
    assert manifest["best"]["checkpoint"] == str(best) and len(manifest["evaluations"]) == 3
    for name in ("train/ckpt/best.json", "train/ckpt/net-3_9.eval.json", "evals/best.json"):
        assert (trained.folder / "out" / name).is_file(), name
    assert "marked as the best of run net" in trained("export", "net", code=2).stderr


def test_a_later_evaluation_of_one_checkpoint_replaces_its_result_and_the_best_may_be_an_earlier_one(trained):
    evaluate(trained, "net")
    folder = trained.run_dir("net") / "train/ckpt"
    (folder / "net-3_9.ckpt").write_text('{"top_1_accuracy": 0.1}')
    shown = evaluate(trained, str(folder / "net-3_9.ckpt"), "--best", "--per-class").stdout
    assert f"best of the run, evaluated earlier: {folder}/net-2_9.ckpt" in shown
    assert shown.splitlines()[-1].split() == ["cat", "4", "25.00%"]
    assert json.loads((folder / "best.json").read_text())["checkpoint"] == "net-2_9.ckpt"
    (folder / "net-2_9.ckpt").unlink()  # as a run does that keeps its last few
    evaluate(trained, str(folder / "net-1_9.ckpt"), "--best")
    assert json.loads((folder / "best.json").read_text())["checkpoint"] == "net-1_9.ckpt"


def test_a_damaged_checkpoint_among_others_is_named_with_exit_code_2_and_costs_no_other_result(trained):
    bad = trained.run_dir("net") / "train/ckpt/net-2_9.ckpt"
    bad.write_text("{")
    done = evaluate(trained, "net", "--best", code=2)
    assert f"not evaluated: {bad} is damaged" in done.stderr
    assert "failed first" not in done.stdout, "the reason was told; a log adds nothing"
    assert done.stdout.count("result: ") == 2
    assert [one["top_1_accuracy"] for one in trained.status("net")["evaluations"]] == [0.5, 0.75]
    done = evaluate(trained, str(bad), code=2)
    assert done.stdout == "" and f"not evaluated: {bad} is damaged" in done.stderr


def test_json_has_everything_and_settings_reach_the_evaluation_alone(trained):
    told = json.loads(evaluate(trained, "net", "--json", "--set", "level=7").stdout)
    assert [one["level"] for one in told] == ["7"] * 3
    assert [one["best"] for one in told] == [False, False, True]
    assert told[0]["per_class"] == [{"name": "cat", "pictures": 4, "accuracy": 0.25}]
    assert [one["level"] for one in json.loads(evaluate(trained, "net", "--json").stdout)] == ["3"] * 3
    assert "no such key; did you mean 'level'?" in evaluate(trained, "net", "--set", "levl=7", code=2).stderr
    assert len(list((trained.run_dir("net") / "evals").iterdir())) == 2, "nothing began with the wrong key"


def test_checkpoints_in_several_folders_are_not_passed_over_in_silence(trained):
    ckpt = trained.run_dir("net") / "train/ckpt"
    more = ckpt.parent / "later"
    more.mkdir()
    (more / "net-4_9.ckpt").write_text('{"top_1_accuracy": 1.0}')
    (ckpt.parent / "a").mkdir()
    (ckpt.parent / "a/.net-5_9.host.7.unfinished.ckpt").write_text("half")
    done = evaluate(trained, "net")
    assert f"evaluating {ckpt}; the run has checkpoints in 1 more folders, to be evaluated one by one: {more}" in (
        done.stderr
    )


def test_results_beside_checkpoints_saved_elsewhere_are_collected_too(trained, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    trained("launch", "job.yaml", "--name", "far", "--set", f"folder={elsewhere}")
    evaluate(trained, "far", "--best")
    trained("collect", "far")
    found = trained.folder / f"collected/far/checkpoints/rank-0{elsewhere}"
    assert sorted(path.name for path in found.iterdir()) == [
        "best.json", *(f"net-{epoch}_9.{suffix}" for epoch in (1, 2, 3) for suffix in ("ckpt", "eval.json")),
    ]  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.skipif(importlib.util.find_spec("mindspore") is None, reason="MindSpore is not installed for this Python")
def test_sknet_keeps_results_beside_its_checkpoints_and_counts_every_test_picture_once(cli):
    cli("data", "sample", "data", "--train", "64", "--test", "70")
    small = ("net=sknet_tiny", "batch_size=32", "epoch_size=2", "warmup_epochs=0", "save_checkpoint_epochs=1")
    settings = [word for one in small for word in ("--set", one)]
    cli("launch", "sknet50-cpu", "--devices", "1", "--name", "tiny", "--dataset", "data", *settings, timeout=400)
    told = json.loads(cli("eval", "tiny", "--best", "--json", timeout=400).stdout)
    folder = cli.run_dir("tiny") / "train/ckpt"
    assert [Path(one["checkpoint"]).name for one in told] == ["sknet_tiny-1_2.ckpt", "sknet_tiny-2_2.ckpt"]
    for one in told:
        kept = json.loads(Path(one["json"]).read_text())
        assert Path(one["json"]).parent == folder and Path(one["png"]).is_file()
        assert sum(map(sum, kept["confusion"])) == one["pictures"] == 70
        assert kept["confusion"] == one["confusion"]
    assert sum(one["best"] for one in told) == 1
    damaged = folder / "sknet_tiny-3_2.ckpt"
    damaged.write_bytes((folder / "sknet_tiny-2_2.ckpt").read_bytes()[:9999])
    done = cli("eval", "tiny", code=2, timeout=400)
    assert done.stdout.count("result: ") == 2 and f"not evaluated: {damaged} is cut short" in done.stderr
