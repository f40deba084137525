from __future__ import annotations

import dataclasses
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sknet.config import FREE_ON_RESUME, NETS, Config, help_text, parse
from sknet.errors import InputError


def test_the_defaults_are_the_published_recipe() -> None:
    config = Config()
    assert (config.class_num, config.batch_size, config.loss_scale, config.momentum) == (10, 32, 1024, 0.9)
    assert (config.weight_decay, config.epoch_size, config.pretrain_epoch_size) == (1e-4, 90, 0)
    assert (config.save_checkpoint, config.save_checkpoint_epochs, config.keep_checkpoint_max) == (
        True,
        5,
        10,
    )
    assert (config.save_checkpoint_path, config.warmup_epochs, config.lr_decay_mode) == ("./ckpt", 5, "poly")
    assert (config.lr_init, config.lr_max, config.lr_end, config.image_size) == (0.01, 0.1, 0.00001, 224)


def test_both_spellings_of_a_value_and_any_case_of_a_boolean_are_read() -> None:
    config, given_names = parse(
        [
            "--epoch_size=7",
            "--batch_size",
            "4",
            "--run_distribute=True",
            "--save_checkpoint=FALSE",
            "--device_num=8",
        ],
        "train",
    )
    assert (config.epoch_size, config.batch_size, config.run_distribute, config.save_checkpoint) == (
        7,
        4,
        True,
        False,
    )
    assert given_names == {"epoch_size", "batch_size", "run_distribute", "save_checkpoint", "device_num"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--epoch_sise=3"], "did you mean epoch_size"),
        (["--amp_level=O4"], "one of auto, O0, O1, O2, O3"),
        (["--lr_decay_mode=cosin"], "did you mean cosine"),
        (["--lr_decay_mode=steps"], "--lr_decay_epochs=30,60,80"),
        (["--lr_decay_epochs=30"], "lr_decay_mode steps and lr_decay_epochs need each other"),
        (["--lr_decay_mode=steps", "--lr_decay_epochs=30,,60"], "whole numbers, as in 30,60,80"),
        (["--lr_decay_mode=steps", "--lr_decay_epochs=60,30"], "must rise"),
        (["--lr_decay_mode=steps", "--lr_decay_epochs=30,90"], "below epoch_size 90"),
        (["--lr_decay_mode=steps", "--lr_decay_epochs=5"], "above warmup_epochs 5"),
        (["--lr_decay_factor=1"], "below 1"),
        (["--label_smooth_factor=1"], "below 1"),
        (["--loss_scale=0.5"], "at least 1"),
        (["--loss_scale_mode=dynamic", "--amp_level=O0"], "no function under amp_level O0"),
        (["--save_checkpoint_steps=0"], "at least 1"),
        (["--diverged_above=0"], "above 0"),
        (["--dataset_sink_mode=perhaps"], "one of auto, true, false"),
        (["--resume=a", "--pre_trained=b"], "resume and pre_trained"),
        (["--net=sknet5"], "did you mean sknet50"),
        (["--batch_size=many"], "a whole number"),
        (["--batch_size=2.5"], "a whole number"),
        (["--batch_size=0"], "at least 1"),
        (["--lr_max=nan"], "finite"),
        (["--momentum=1"], "below 1"),
        (["--save_checkpoint=yes"], "true or false"),
        (["--lr_max=0.001"], "lr_max 0.001"),
        (["--epoch_size=99999999999999999999"], "must be at most 10000"),
        (["--epoch_size=3"], "warmup_epochs 5 must be below epoch_size 3"),
        (["--pretrain_epoch_size=90"], "below epoch_size"),
        (["--pretrain_epoch_size=3"], "needs pre_trained"),
        (["--seed=1", "--seed=2"], "given twice"),
        (["--seed"], "needs a value"),
        (["--seed", "--net=sknet50"], "needs a value"),
        (["train"], "unexpected argument"),
        (["--checkpoint_path=x"], "unknown key"),
    ],
)
def test_a_bad_setting_gets_one_clear_line(arguments: list[str], says: str) -> None:
    with pytest.raises(InputError) as raised:
        parse(arguments, "train")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_published_misspelling_of_poly_is_taken_with_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    config, _ = parse(["--lr_decay_mode=ploy"], "train")
    assert config.lr_decay_mode == "poly"
    assert capsys.readouterr().err == "sknet: --lr_decay_mode=ploy is a published misspelling; taken as poly\n"
    parse(["--lr_decay_mode=poly"], "train")
    assert capsys.readouterr().err == ""


def test_a_choice_may_be_written_in_any_case() -> None:
    config, _ = parse(["--amp_level=o2", "--device_target=ascend", "--dataset_sink_mode=False"], "train")
    assert (config.amp_level, config.device_target, config.dataset_sink_mode) == ("O2", "Ascend", "false")


def test_what_a_resumed_run_may_change_are_settings_there_are() -> None:
    assert set(FREE_ON_RESUME) < {item.name for item in dataclasses.fields(Config)}


def test_evaluation_takes_the_arguments_of_training_and_its_own() -> None:
    config, _ = parse(["--epoch_size=7", "--checkpoint_path=x"], "eval")
    assert (config.epoch_size, config.checkpoint_path) == (7, "x")


def test_help_names_every_key_and_its_range() -> None:
    text = help_text("eval")
    assert "at least 8, at most 1024" in text
    assert "at least 0, below 1" in text
    assert all(f"--{item.name}=" in text for item in dataclasses.fields(Config))


def test_every_net_that_can_be_named_can_be_built() -> None:
    from sknet.model import SHAPES

    assert set(NETS) == set(SHAPES)


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_argument_whatever_brings_anything_but_a_clear_error(name: str, value: str) -> None:
    try:
        parse([f"--{name}={value}", value], "train")
    except InputError as exc:
        assert str(exc)


@pytest.mark.parametrize("module", ["sknet.train", "sknet.eval"])
def test_a_mistyped_key_ends_at_once_with_exit_code_2(run_module, module: str) -> None:
    start = time.monotonic()
    done = run_module(module, "--epoch_sise=3")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "epoch_size" in done.stderr
    assert time.monotonic() - start < 2.0


@pytest.mark.parametrize("module", ["sknet.train", "sknet.eval", "sknet.sample"])
def test_help_answers_without_mindspore(run_module, module: str) -> None:
    start = time.monotonic()
    done = run_module(module, "--help")
    assert done.returncode == 0
    assert "usage:" in done.stdout
    assert time.monotonic() - start < 2.0
