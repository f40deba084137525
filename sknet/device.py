"""The device that the net runs on."""

from __future__ import annotations

from dataclasses import replace

import mindspore as ms

from sknet.config import Config
from sknet.errors import InputError


def choose_device(wanted: str, device_id: int) -> str:
    """Make MindSpore compile graphs for a device; return its target: Ascend, GPU or CPU.

    'auto' takes what this MindSpore finds: an accelerator before the CPU. Raises InputError when this machine or this
    MindSpore lacks the one wanted.
    """
    ms.set_context(mode=ms.GRAPH_MODE)
    target = ms.get_context("device_target") if wanted == "auto" else wanted
    try:
        if target != "CPU":
            ms.set_device(target, device_id)
        elif ms.get_context("device_target") != target:  # MindSpore takes no setting twice once anything was computed
            ms.set_device(target)
    except (RuntimeError, ValueError) as exc:
        raise InputError(
            f"this machine, or this build of MindSpore, has no {target}; try --device_target=auto"
        ) from exc
    return target


def resolved(config: Config, device_id: int) -> Config:
    """Choose the device; return the settings with what "auto" turned out to be. Raises as choose_device does.

    Mixed precision is O2 on Ascend. On CPU half precision is 4 times slower, measured. Data sink is for Ascend:
    MindSpore has none on CPU ("Data sinking supports ascend or gpu device target").
    """
    target = choose_device(config.device_target, device_id)
    level = config.amp_level
    if level == "auto":
        level = "O2" if target == "Ascend" else "O0"
    sink = config.dataset_sink_mode
    if sink == "auto":
        sink = "true" if target == "Ascend" else "false"
    return replace(config, device_target=target, amp_level=level, dataset_sink_mode=sink)
