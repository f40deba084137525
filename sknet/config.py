"""Every setting of training and evaluation: one frozen dataclass, and the command line that fills it."""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sknet.errors import InputError

NETS = ("sknet26", "sknet50", "sknet101", "sknet_tiny")
DEVICE_TARGETS = ("auto", "Ascend", "CPU", "GPU")
AMP_LEVELS = ("auto", "O0", "O1", "O2", "O3")
DECAY_MODES = ("poly", "cosine", "steps", "linear")
PUBLISHED_SPELLINGS = {("lr_decay_mode", "ploy"): "poly"}  # research/cv/sknet
LIMITS = (
    ("least", operator.ge, "at least"),
    ("most", operator.le, "at most"),
    ("above", operator.gt, "above"),
    ("below", operator.lt, "below"),
)
# What a resumed run may change; all else shapes the course of the training and is compared with the checkpoint.
FREE_ON_RESUME = (
    "dataset_path", "pre_trained", "pretrain_epoch_size", "resume", "save_checkpoint", "save_checkpoint_epochs",
    "save_checkpoint_steps", "keep_checkpoint_max", "save_checkpoint_path", "diverged_above", "dataset_sink_mode",
    "device_target", "run_distribute", "device_num", "checkpoint_path", "accumulate",
)  # fmt: skip


def key(
    default: Any,
    meaning: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
    only: str | None = None,
) -> Any:
    """Declare one setting: its default, what it means (with its unit), its range, the one command that takes it."""
    return dataclasses.field(
        default=default,
        metadata={
            "meaning": meaning,
            "least": least,
            "most": most,
            "above": above,
            "below": below,
            "choices": tuple(choices),
            "only": only,
        },
    )


@dataclass(frozen=True)
class Config:
    """The settings of one run. Raises InputError when a value is out of range or two values disagree.

    Defaults are the published recipe's (mindspore-ai/models, research/cv/sknet: CIFAR-10 on 8 devices), but for
    bn_momentum; model.py lists all that deliberately differs from that recipe.
    """

    dataset_path: str | None = key(None, "folder with cifar-10-batches-bin/ and cifar-10-verify-bin/")
    net: str = key("sknet50", "network to train", choices=NETS)
    class_num: int = key(10, "classes; every label must be below it", least=2, most=256)
    group_convolution: str = key(
        "native",
        "grouped convolutions by one operator, or split into their groups for Ascend software without it",
        choices=("native", "split"),
    )
    image_size: int = key(224, "pixels: pictures are resized to this many squared", least=8, most=1024)
    batch_size: int = key(32, "pictures per device and step", least=1, most=65536)
    accumulate: int = key(
        1,
        "parts of a batch that are computed one after the other, their gradients added up, where memory has no room "
        "for all at once; fewer ranks that resume a run choose so many that a part is what one of the first ranks took",
        least=1,
        most=1024,
    )
    epoch_size: int = key(90, "epochs of the whole schedule", least=1, most=10_000)
    pretrain_epoch_size: int = key(0, "epochs that pre_trained has behind it; training goes on after them", least=0)
    pre_trained: str | None = key(None, "checkpoint whose weights to start from; for all else see resume")
    resume: str | None = key(
        None,
        "checkpoint to go on from as if the run had never stopped, or a folder: its newest whole one; every rank must "
        "be able to read it; dataset_path, paths, saving and devices may differ from the first run's, nothing else",
    )
    momentum: float = key(0.9, "of the optimiser", least=0, below=1)
    weight_decay: float = key(1e-4, "L2 penalty on weights, not on biases and batch norm", least=0)
    label_smooth_factor: float = key(0.0, "share of the label spread over all classes; 0 is off", least=0, below=1)
    loss_scale_mode: str = key(
        "fixed",
        "dynamic halves loss_scale and skips the update when gradients overflow, doubles it after loss_scale_window "
        "good steps; without function under O0",
        choices=("fixed", "dynamic"),
    )
    loss_scale: float = key(
        1024.0,
        "factor on the loss that keeps half-precision gradients above 0, the first one if dynamic; left out under O0",
        least=1,
        most=2**24,
    )
    loss_scale_window: int = key(2000, "good steps after which a dynamic loss scale doubles", least=1)
    lr_decay_mode: str = key("poly", "how the learning rate falls after warm-up", choices=DECAY_MODES)
    lr_decay_epochs: str | None = key(
        None, "for steps: epochs after which the rate is multiplied by lr_decay_factor, as in 30,60,80"
    )
    lr_decay_factor: float = key(0.1, "for steps: what the rate is multiplied by", above=0, below=1)
    lr_init: float = key(0.01, "learning rate of the first step", least=0)
    lr_max: float = key(0.1, "learning rate at the end of warm-up", above=0)
    lr_end: float = key(0.00001, "learning rate of the last step; for steps the least one", least=0)
    warmup_epochs: int = key(5, "epochs over which the learning rate rises from lr_init to lr_max", least=0)
    bn_momentum: float = key(0.9, "share of the running batch statistics that each step keeps", least=0, below=1)
    diverged_above: float = key(
        1000.0, "mean loss of a step above which the run stops as diverged; chance is log(class_num)", above=0
    )
    amp_level: str = key(
        "auto",
        "what is computed in half precision: O0 nothing, O1 convolutions and dense layers, O2 all but batch norms, "
        "O3 all; auto is O2 on Ascend and O0 elsewhere",
        choices=AMP_LEVELS,
    )
    dataset_sink_mode: str = key(
        "auto",
        "whether batches wait on the device before a step needs them; Ascend only, auto is true there",
        choices=("auto", "true", "false"),
    )
    seed: int = key(1, "of weights, shuffle and augmentation; the same on all ranks", least=0, most=2**32 - 1)
    save_checkpoint: bool = key(True, "whether to write checkpoints")
    save_checkpoint_epochs: int = key(5, "epochs between checkpoints; the last step is always saved", least=1)
    save_checkpoint_steps: int | None = key(
        None,
        "steps between checkpoints, counted from the first of all; given, it replaces save_checkpoint_epochs",
        least=1,
    )
    keep_checkpoint_max: int = key(10, "checkpoints of this run to keep, the newest ones", least=1)
    save_checkpoint_path: str = key("./ckpt", "folder for checkpoints, made when missing")
    device_target: str = key("auto", "auto takes Ascend, else GPU, else CPU", choices=DEVICE_TARGETS)
    run_distribute: bool = key(False, "train with other ranks; needless where RANK_SIZE is above 1")
    device_num: int | None = key(None, "ranks in all, where RANK_SIZE does not say so", least=1)
    checkpoint_path: str | None = key(None, "checkpoint file, or folder of them, to evaluate", only="eval")

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            check_range(item, getattr(self, item.name))
        if self.lr_init > self.lr_max or self.lr_end > self.lr_max:
            raise InputError(
                f"lr_max {self.lr_max:g} must not be below lr_init {self.lr_init:g} or lr_end {self.lr_end:g}"
            )
        if self.warmup_epochs >= self.epoch_size:
            raise InputError(f"warmup_epochs {self.warmup_epochs} must be below epoch_size {self.epoch_size}")
        if self.pretrain_epoch_size >= self.epoch_size:
            raise InputError(
                f"pretrain_epoch_size {self.pretrain_epoch_size} must be below epoch_size {self.epoch_size}"
            )
        if self.pretrain_epoch_size and not self.pre_trained:
            raise InputError("pretrain_epoch_size needs pre_trained, the checkpoint of those epochs")
        if self.resume and self.pre_trained:
            raise InputError("resume and pre_trained both say where to start from; resume restores everything")
        if (self.lr_decay_mode == "steps") != (self.lr_decay_epochs is not None):
            raise InputError(
                "lr_decay_mode steps and lr_decay_epochs need each other, as in "
                "--lr_decay_mode=steps --lr_decay_epochs=30,60,80"
            )
        self.decay_epochs()
        if self.amp_level == "O0" and self.loss_scale_mode == "dynamic":
            raise InputError(
                "loss_scale_mode dynamic has no function under amp_level O0, full precision; drop one of the two"
            )

    def decay_epochs(self) -> tuple[int, ...]:
        """Return lr_decay_epochs as numbers. Raises InputError unless they rise from warm-up to the last epoch."""
        if self.lr_decay_epochs is None:
            return ()
        words = [word.strip() for word in self.lr_decay_epochs.split(",")]
        if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
            raise InputError(f"lr_decay_epochs {self.lr_decay_epochs!r} must be whole numbers, as in 30,60,80")
        epochs = tuple(int(word) for word in words)
        bounds = (self.warmup_epochs, *epochs, self.epoch_size)
        if not all(before < after for before, after in zip(bounds, bounds[1:])):
            raise InputError(
                f"lr_decay_epochs {self.lr_decay_epochs} must rise, above warmup_epochs {self.warmup_epochs} "
                f"and below epoch_size {self.epoch_size}"
            )
        return epochs


def check_range(item: dataclasses.Field[Any], value: Any) -> None:
    """Raise InputError unless *value* lies in the range that *item* declares. None is always allowed."""
    rule = item.metadata
    if value is None:
        return
    if rule["choices"] and value not in rule["choices"]:
        raise InputError(
            f"{item.name} {value!r} must be one of {', '.join(rule['choices'])}{nearest(value, rule['choices'])}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{item.name} must be a finite number, not {value}")
    for limit, holds, words in LIMITS:
        if rule[limit] is not None and not holds(value, rule[limit]):
            raise InputError(f"{item.name} {value} must be {words} {spell(rule[limit])}")


def nearest(word: str, known: Sequence[str]) -> str:
    """Return '; did you mean X?' for the known word most like *word*, or nothing when none is like it."""
    like = difflib.get_close_matches(str(word), list(known), n=1)
    return f"; did you mean {like[0]}?" if like else ""


def keys_of(command: str) -> dict[str, dataclasses.Field[Any]]:
    """Return the settings that 'train' or 'eval' takes, by name. Eval takes all, so one argument list serves both."""
    return {item.name: item for item in dataclasses.fields(Config) if item.metadata["only"] in (None, command)}


def parse(arguments: Sequence[str], command: str) -> tuple[Config, frozenset[str]]:
    """Read `--key=value` and `--key value`; return the settings and the names that were given.

    Booleans are true or false in any case; an empty value or `none` is "absent" where that is allowed.
    Raises InputError, one line, for an unknown, repeated or mistyped key.
    """
    known = keys_of(command)
    values: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise InputError(f"unexpected argument {word!r}; settings are written --key=value")
        name, equals, text = word[2:].partition("=")
        if name not in known:
            raise InputError(f"unknown key --{name}{nearest(name, list(known)) or '; --help lists all'}")
        if name in values:
            raise InputError(f"--{name} is given twice")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise InputError(f"--{name} needs a value, as in --{name}={spell(known[name].default)}")
            text = rest.pop(0)
        if (name, text) in PUBLISHED_SPELLINGS:
            written, text = text, PUBLISHED_SPELLINGS[name, text]
            print(f"sknet: --{name}={written} is a published misspelling; taken as {text}", file=sys.stderr, flush=True)
        values[name] = convert(known[name], text)
    return Config(**values), frozenset(values)


def convert(item: dataclasses.Field[Any], text: str) -> Any:
    """Return *text* as the type of *item*. Raises InputError when it cannot be."""
    kinds = str(item.type).split(" | ")
    same = [choice for choice in item.metadata["choices"] if choice.lower() == text.lower()]
    if same:
        return same[0]
    if "None" in kinds and text.lower() in ("", "none"):
        return None
    try:
        if kinds[0] == "bool":
            return {"true": True, "false": False}[text.lower()]
        return {"int": int, "float": float, "str": str}[kinds[0]](text)
    except (KeyError, ValueError):
        wanted = {"bool": "true or false", "int": "a whole number", "float": "a number"}[kinds[0]]
        raise InputError(f"--{item.name}={text} must be {wanted}") from None


def spell(value: Any) -> str:
    """Write a value as the command line takes it."""
    return (
        str(value).lower() if isinstance(value, bool) else f"{value:.12g}" if isinstance(value, float) else str(value)
    )


def help_text(command: str) -> str:
    """Return what --help prints: each key of *command*, its default and its meaning."""
    lines = [f"usage: python -m sknet.{command} --key=value ...", ""]
    for item in keys_of(command).values():
        bounds = [
            f"{words} {spell(item.metadata[name])}" for name, _, words in LIMITS if item.metadata[name] is not None
        ]
        allowed = ", ".join(item.metadata["choices"] or bounds)
        first, *further = textwrap.wrap(item.metadata["meaning"] + (f" ({allowed})" if allowed else ""), 80)
        lines.append(f"  --{item.name + '=' + spell(item.default):<36} {first}")
        lines += [f"{'':41} {line}" for line in further]
    return "\n".join(lines)
