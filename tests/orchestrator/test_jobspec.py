from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator import jobfiles
from orchestrator.errors import SpecError
from orchestrator.jobspec import DatasetSpec, EvaluationSpec, JobSpec, check_name

FULL = """\
name: lenet
description: a job with every field
module: lenet.train
devices: 0-3
backend: cpu
framework: mindspore
config: {epochs: 3, rate: 1e-4, amp: true, net: lenet5, resume: null}
environment: {GLOG_v: "3"}
dataset: {layout: cifar10-binary}
evaluation:
  module: lenet.eval
  config: {batch_size: 1}
working_directory: /work
log_patterns: ['loss=(?P<loss>[0-9.]+)']
compile_cache: true
grace_s: 2.5
"""


def error_of(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        JobSpec.parse(text, "job.yaml")
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_job_file_with_every_field_is_read() -> None:
    assert JobSpec.parse(FULL, "job.yaml") == JobSpec(
        name="lenet",
        description="a job with every field",
        module="lenet.train",
        devices="0-3",
        backend="cpu",
        framework="mindspore",
        config={"epochs": 3, "rate": 1e-4, "amp": True, "net": "lenet5", "resume": None},
        environment={"GLOG_v": "3"},
        dataset=DatasetSpec("cifar10-binary"),
        evaluation=EvaluationSpec("lenet.eval", {"batch_size": 1}),
        working_directory="/work",
        log_patterns=("loss=(?P<loss>[0-9.]+)",),
        compile_cache=True,
        grace_s=2.5,
    )


def test_a_command_job_needs_two_fields_only() -> None:
    spec = JobSpec.parse("name: hello\ncommand: [echo, hello]\n", "job.yaml")
    assert spec == JobSpec(name="hello", command=("echo", "hello"))


@pytest.mark.parametrize("name", jobfiles.builtin_names())
def test_every_job_that_comes_with_ascendrun_can_be_read_and_stored(name: str) -> None:
    spec = jobfiles.load(name)
    assert spec.name == name
    assert JobSpec.from_stored(json.loads(json.dumps(asdict(spec)))) == spec


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "-2e5", "1.e+3", "1.5e-3", "0.0001", "1e5"])
def test_numbers_are_numbers_with_or_without_a_dot(text: str) -> None:
    value = JobSpec.parse(f"name: a\nmodule: m\nconfig: {{rate: {text}}}\n", "job.yaml").config["rate"]
    assert isinstance(value, float)
    assert value == float(text)


@pytest.mark.parametrize("text", ["e4", "1e", "v1e-4", "1e-4x", "'1e-4'"])
def test_text_that_only_looks_like_a_number_stays_text(text: str) -> None:
    value = JobSpec.parse(f"name: a\nmodule: m\nconfig: {{rate: {text}}}\n", "job.yaml").config["rate"]
    assert value == text.strip("'")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("name: a\n\tmodule: b\n", "job.yaml:2:1: "),
        ("name: a\nmodule: [b\n", "job.yaml:3:1: "),
        ("name: a\nmodule: b: c\n", "job.yaml:2:10: "),
        ('name: a\nmodule: "b\n', "job.yaml:3:1: "),
        ("name: a\n--- \nname: b\n", "job.yaml:2:1: "),
        ("name: *x\n", "job.yaml:1:7: "),
        ("name: !!python/object:os.system {}\n", "job.yaml:1:7: "),
        ("name: a\nmodul: b\n", "job.yaml:2:1: unknown field 'modul'; did you mean 'module'?"),
        (
            "name: a\nmodule: b\ndataset:\n  layuot: x\n",
            "job.yaml:4:3: unknown field 'dataset.layuot'; did you mean 'layout'?",
        ),
        (
            "name: a\nmodule: b\nevaluation: {module: c, confg: {}}\n",
            "job.yaml:3:25: unknown field 'evaluation.confg'; did you mean 'config'?",
        ),
        ("nmae: a\nmodule: b\n", "job.yaml:1:1: unknown field 'nmae'; did you mean 'name'?"),
        ("name: a\nmodule: b\nname: c\n", "job.yaml:3:1: 'name' is given twice (first in line 1)"),
        ("name: a\nmodule: b\nconfig:\n  x: 1\n  y: 2\n  x: 3\n", "job.yaml:6:3: 'x' is given twice (first in line 4)"),
        ("name: a\nmodule: b\nbackend: 5\n", "job.yaml:3:1: backend: "),
        ("name: a\nmodule: b\ngrace_s: soon\n", "job.yaml:3:1: grace_s: "),
        ("name: a\nmodule: b\ncompile_cache: maybe\n", "job.yaml:3:1: compile_cache: "),
        ("name: a\nmodule: b\nconfig: [1]\n", "job.yaml:3:1: config: "),
        ("name: a\nmodule: b\nconfig:\n  x: [1]\n", "job.yaml:4:3: config.x"),
        ("name: a\nmodule: b\nenvironment:\n  X: 4\n", "job.yaml:4:3: environment.X: "),
        ("name: a\ncommand: ls\n", "job.yaml:2:1: command: "),
        ("name: a\ncommand: [ls, 4]\n", "job.yaml:2:15: command.1: "),
        ("name: [a]\nmodule: b\n", "job.yaml:1:1: name: "),
        ("name: a\nmodule: b\ndataset: cifar10\n", "job.yaml:3:1: dataset"),
        ("name: a\nmodule: b\ndevices: [0, 1]\n", "job.yaml:3:1: devices"),
        ("module: b\n", "job.yaml: the field 'name' is missing"),
        ("name: a\nmodule: b\nevaluation: {config: {}}\n", "job.yaml:3:1: the field 'module' is missing"),
        ("", "job.yaml: a job file is a mapping of fields (name:, module:, …), this is empty"),
        ("# only a comment\n", "job.yaml: a job file is a mapping of fields (name:, module:, …), this is empty"),
        ("- name: a\n", "job.yaml: a job file is a mapping of fields (name:, module:, …), this is a list"),
        ("sknet50\n", "job.yaml: a job file is a mapping of fields (name:, module:, …), this is a str"),
        ("name: a\n", "job.yaml: a job says either `module:` (a Python module) or `command:` (a list)"),
        ("name: a\nmodule: b\ncommand: [c]\n", "job.yaml: a job says either `module:`"),
        ("name: a\ncommand: []\n", "job.yaml: `command:` is empty"),
        ("name: a\ncommand: [c]\nconfig: {x: 1}\n", "job.yaml: `config:` goes with `module:`"),
        ("name: ../a\nmodule: b\n", "job.yaml: name '../a': a name is made of letters"),
        (
            "name: a\nmodule: b\nbackend: xyz\n",
            "job.yaml: backend: there is no backend 'xyz'; known: ascend, auto, cpu",
        ),
        (
            "name: a\nmodule: b\nbackend: asend\n",
            "job.yaml: backend: there is no backend 'asend'; did you mean 'ascend'?",
        ),
        ("name: a\nmodule: b\nframework: torch\n", "job.yaml: framework: there is no framework 'torch'"),
        ("name: a\nmodule: b\ngrace_s: -1\n", "job.yaml: grace_s -1.0: "),
        ("name: a\nmodule: b\ngrace_s: .nan\n", "job.yaml: grace_s nan: "),
        ("name: a\nmodule: b\nlog_patterns: ['(?P<loss>']\n", "job.yaml: log_patterns: '(?P<loss>' is not a regular"),
        ("name: a\nmodule: b\nlog_patterns: ['loss']\n", "job.yaml: log_patterns: 'loss' names no group"),
        ("name: a\nmodule: b\nenvironment: {'A=B': c}\n", "job.yaml: environment: 'A=B' cannot be the name"),
    ],
)
def test_a_bad_job_file_is_told_in_one_line_with_its_place(text: str, start: str) -> None:
    told = error_of(text)
    assert told.startswith(start)
    assert "\n" not in told


@pytest.mark.parametrize("text", ["name: a\nmodule: b\ndevices: true\n", "name: a\nmodule: b\nmodule: true\n"])
def test_true_is_no_count_and_no_name(text: str) -> None:
    assert error_of(text).startswith("job.yaml:3:1: ")


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "&a {b: *a}\n", "a: &a {b: [c, *a]}\n"])
def test_an_alias_that_contains_itself_is_refused(text: str) -> None:
    assert "contains itself" in error_of(text)


def test_an_alias_bomb_is_refused_before_it_goes_off() -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "more than 10,000 entries" in error_of("\n".join(lines))


def test_an_alias_bomb_of_merged_mappings_is_refused_before_it_goes_off() -> None:
    lines = ["a0: &a0 {x: lol}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)]
    assert "job.yaml" in error_of("\n".join(lines))


def test_an_alias_bomb_inside_a_key_is_refused_before_it_goes_off() -> None:
    layers = ["&a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    layers += [f"&a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))\n"
        "from orchestrator.errors import SpecError\n"
        "from orchestrator.jobspec import JobSpec\n"
        "try:\n"
        "    JobSpec.parse(sys.argv[1], 'job.yaml')\n"
        "except SpecError as exc:\n"
        "    print('refused')\n"
    )
    text = f"? [{', '.join(layers)}]\n: value\n"
    done = subprocess.run([sys.executable, "-c", program, text], capture_output=True, text=True, timeout=100)
    assert done.stdout == "refused\n", done.stderr[-300:]


def test_a_very_deep_document_is_refused() -> None:
    assert "job.yaml" in error_of("[" * 1_200)
    assert "job.yaml" in error_of("a: " + "{a: " * 1_500)


@given(st.text())
@example("")
@example("\0")
@example("!!int ''")
@example("!!float ''")
@example("!!bool maybe")
@example("!!timestamp soon")
@example("!!timestamp 2001-99-99")
@example("!!binary '*'")
@example("!!omap [a]")
@example("!!set [a]")
@example("? [a, b]\n: c")
@example("? {a: b}\n: c")
@example("? 2001-01-01\n: c")
@example("1: a")
@example("null: a")
@example("true: a")
@example('"\\ud800": a')
@example('name: "\\ud800"\nmodule: a')
@example('name: a\nmodule: b\nconfig: {"\\ud800": 1}')
@example('name: a\nmodule: b\nconfig: {x: "\\ud800"}')
@example("name: a\nmodule: b\nconfig: {1: 2}")
@example("name: a\nmodule: b\nconfig: {x: 2001-01-01}")
@example("<<: 5")
@example("<<: {name: a, module: b}")
@example("=")
@example("name: =\nmodule: a")
@example("name: 0b_")
@example("name: " + "9" * 5000)
@example("%YAML 9.9\n---\n")
@example("a: &x 1\nb: *x\n*x : 2")
def test_any_text_at_all_is_a_job_or_a_spec_error(text: str) -> None:
    try:
        JobSpec.parse(text, "job.yaml")
    except SpecError as exc:
        assert "job.yaml" in str(exc)


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@given(
    st.dictionaries(st.sampled_from(sorted(JobSpec.__dataclass_fields__)), values, max_size=6),
    st.dictionaries(st.one_of(st.text(max_size=4), st.integers()), values, max_size=2),
)
def test_known_fields_with_any_values_are_a_job_or_a_spec_error(
    known: "dict[str, Any]", unknown: "dict[Any, Any]"
) -> None:
    import yaml

    document = {"name": "a", "module": "b", **known, **unknown}
    try:
        spec = JobSpec.parse(yaml.safe_dump(document), "job.yaml")
    except SpecError as exc:
        assert "job.yaml" in str(exc)
        return
    assert not unknown or set(unknown) <= set(JobSpec.__dataclass_fields__)
    assert repr(JobSpec.from_stored(json.loads(json.dumps(asdict(spec))))) == repr(spec)  # repr: NaN is not itself


# ── --set ────────────────────────────────────────────────────────────────────────────────────────

JOB = JobSpec(
    name="job",
    module="m",
    config={"epochs": 90, "rate": 0.1, "amp": False, "net": "sknet50", "resume": None},
    environment={"GLOG_v": "2"},
)


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("epochs=3", "epochs", 3),
        ("epochs = -3", "epochs", -3),
        ("rate=1e-4", "rate", 1e-4),
        ("rate=1", "rate", 1.0),
        ("amp=true", "amp", True),
        ("amp=Yes", "amp", True),
        ("amp=no", "amp", False),
        ("net=5", "net", "5"),
        ("net=a=b", "net", "a=b"),
        ("net=", "net", ""),
        ("resume=x.ckpt", "resume", "x.ckpt"),
    ],
)
def test_a_setting_gets_the_type_of_the_value_it_replaces(setting: str, key: str, value: object) -> None:
    config = JOB.with_settings([setting]).config
    assert (config[key], type(config[key])) == (value, type(value))
    assert {k: v for k, v in config.items() if k != key} == {k: v for k, v in JOB.config.items() if k != key}


def test_settings_leave_the_job_they_were_made_from_as_it_was() -> None:
    JOB.with_settings(["epochs=3", "environment.A=1"])
    assert JOB.config["epochs"] == 90
    assert JOB.environment == {"GLOG_v": "2"}


def test_the_last_of_two_equal_settings_counts() -> None:
    assert JOB.with_settings(["epochs=3", "epochs=4"]).config["epochs"] == 4


def test_a_variable_is_set_by_its_name_and_its_text_is_kept_as_it_is() -> None:
    environment = JOB.with_settings(["environment.GLOG_v=3", "environment.A.B= x=y "]).environment
    assert environment == {"GLOG_v": "3", "A.B": " x=y "}


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("epocs=3", "the job job has no such key; did you mean 'epochs'?"),
        ("zzz=3", "known: amp, epochs, net, rate, resume"),
        ("=3", "no such key"),
        ("epochs", "write --set KEY=VALUE"),
        ("epochs=three", "epochs is a whole number (now 90)"),
        ("epochs=3.5", "epochs is a whole number (now 90)"),
        ("epochs=", "epochs is a whole number (now 90)"),
        ("rate=fast", "rate is a number (now 0.1)"),
        ("amp=2", "amp is true or false (now false)"),
        ("environment.=1", "cannot be the name of a variable"),
        ("environment.A=\0", "cannot be"),
    ],
)
def test_a_setting_that_does_not_fit_says_so(setting: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        JOB.with_settings([setting])
    assert told in str(caught.value)


def test_a_job_without_config_tells_where_its_arguments_go() -> None:
    with pytest.raises(SpecError, match="after `--`"):
        JobSpec(name="a", command=("ls",)).with_settings(["x=1"])


# ── stored jobs, commands, names ─────────────────────────────────────────────────────────────────


def test_a_stored_job_is_read_back_equal() -> None:
    spec = JobSpec.parse(FULL, "job.yaml")
    assert JobSpec.from_stored(json.loads(json.dumps(asdict(spec)))) == spec


def test_a_stored_job_of_a_newer_ascendrun_is_read_without_its_new_fields() -> None:
    stored = json.loads(json.dumps(asdict(JobSpec.parse(FULL, "job.yaml"))))
    stored["priority"] = stored["dataset"]["checksum"] = stored["evaluation"]["every"] = 5
    assert JobSpec.from_stored(stored) == JobSpec.parse(FULL, "job.yaml")


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["python", "my_train.py", "--lr", "0.1"], "my_train"),
        (["python3", "-u", "/a/b c/run it.py"], "run-it"),
        (["bash", "go.sh"], "go"),
        (["/usr/bin/env"], "env"),
        (["--"], "run"),
        (["./---"], "run"),
        (["python", "-m", "pkg"], "python"),
        (["x" * 200], "x" * 64),
    ],
)
def test_a_command_is_a_job_named_after_its_program(argv: "list[str]", name: str) -> None:
    spec = JobSpec.for_command(argv, "/work")
    assert (spec.name, spec.command, spec.working_directory) == (name, tuple(argv), "/work")


@given(st.lists(st.text(), min_size=1))
def test_any_command_line_is_a_job(argv: "list[str]") -> None:
    assert JobSpec.for_command(argv, "/").command == tuple(argv)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a b", "a\n", "ä", "a" * 65, ".hidden"])
def test_a_name_that_is_no_plain_file_name_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="--name"):
        check_name(name, "--name")


@pytest.mark.parametrize("name", ["a", "0", "sknet50-20260101-000000.2", "a" * 64])
def test_a_plain_name_is_taken(name: str) -> None:
    check_name(name, "--name")
