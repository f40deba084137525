"""Words, names and paths that shells and programs may take for something else, all the way to a rank on a far host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import ASCENDRUN
from tests.integration.far import Far

TELLS = """
import json, os, sys
print(json.dumps([sys.argv[1:], sorted(os.listdir()), os.environ.get("ASCENDRUN_DATASET")]))
"""
NASTY = "-a 'b' \"c\" $(id) `id` \\ * ~ ; & é 日本 %s !x \t\n-rf \udcff #"
words = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12) | st.sampled_from(NASTY.split(" "))
# What may be the name of a folder in a hosts.yaml: YAML has no way to write some characters, and paths no newline.
folders = st.text(st.characters(exclude_characters="\0/\n\r\x85\u2028\u2029\ufeff", codec="utf-8"), min_size=1).map(
    lambda name: os.fsdecode(os.fsencode(name)[:60]).encode("utf-8", "ignore").decode()
).filter(lambda name: name.strip(".") and name.isprintable())  # fmt: skip


def told(far: Far, folder: Path, work: str, arguments: "list[str]") -> "list[object]":
    """Launch from *folder*, with run folders below it, and work folders called *work*; return what the rank tells."""
    (folder / "train.py").write_text(TELLS)
    dataset = f"/tmp/{NASTY}"
    far.bed.exec(far.bed.hosts[0], ["mkdir", "-p", "--", dataset])
    hosts = far.hosts(1, work_folder=f"/srv/work/{work}")
    run = [ASCENDRUN, "launch", "--hosts", hosts, "--name", "r", "--devices", "1", "--dataset", dataset]
    run += [f"--run-dir={folder}/runs", "--", sys.executable, "train.py", *arguments]
    done = subprocess.run(run, cwd=folder, env=far.cli.environment, capture_output=True, timeout=60)
    assert done.returncode == 0, done
    logs = [ASCENDRUN, "logs", str(folder / "runs/r")]
    logged = subprocess.run(logs, cwd=folder, env=far.cli.environment, capture_output=True, timeout=60, check=True)
    shutil.rmtree(folder / "runs")
    far.bed.exec(far.bed.hosts[0], ["sh", "-c", "rm -rf -- /srv/work/*/r"])
    answer: "list[object]" = json.loads(logged.stdout.partition(b"[rank 0] ")[2])
    assert answer[2] == dataset
    return answer


def test_nasty_words_names_and_paths_arrive_as_they_are(far: Far) -> None:
    folder = far.cli.folder / NASTY
    folder.mkdir()
    (folder / f"{NASTY}.txt").write_text("")
    arguments = [NASTY, "", "-n", "--", *NASTY.split(" ")]
    answer = told(far, folder, "-a 'b' \"c\" $(id) `id` \\ * ~ ; & é 日本 %s #", arguments)
    assert answer[:2] == [arguments, sorted([f"{NASTY}.txt", "train.py"])]


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(work=folders, arguments=st.lists(words, max_size=4))
def test_any_words_and_work_folders_do(far: Far, work: str, arguments: "list[str]") -> None:
    assert told(far, far.cli.folder, work, arguments)[0] == arguments


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("work_folder", "/srv/a\nb", "work_folder '/srv/a\\nb' cannot be a path"),
        ("work_folder", "", "work_folder '' cannot be a path"),
        ("work_folder", "runs", "work_folder 'runs': begin it with / or ~/"),
        ("name", "a b", "name 'a b' cannot be that of a host"),
        ("name", "-oProxyCommand=x", "name '-oProxyCommand=x' cannot be that of a host"),
        ("name", "../node1", "name '../node1' cannot be that of a host"),
        ("address", "$(id)", "address '$(id)' cannot be that of a host"),
        ("user", "-l root", "'-l root' cannot be a user"),
        ("python", "a\nb", "python 'a\\nb' cannot be a path"),
    ],
)
def test_what_is_no_name_or_path_is_refused_in_one_line(far: Far, field: str, value: str, said: str) -> None:
    done = far.cli("launch", "--hosts", far.hosts(2, node2={field: value}), "--", *far.program(), "1", code=2)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
