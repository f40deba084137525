"""A compile cache that can be trusted: one folder for each graph.

MindSpore's own cache (MS_COMPILER_CACHE_ENABLE, MS_COMPILER_CACHE_PATH) does not look at the numbers in a graph:
measured with 2.10, a run with a longer list of learning rates got the old run's graph, old rates included, without a
word. So each process takes a folder of its own below the one that is given, named by all that shapes its graph.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from sknet.config import Config
from sknet.distributed import World

PATH = "MS_COMPILER_CACHE_PATH"
# All that ends up in a graph. Rates, epochs, seeds and paths stay outside: weights and rates are parameters.
SHAPING = (
    "net", "class_num", "group_convolution", "image_size", "batch_size", "accumulate", "momentum", "weight_decay",
    "label_smooth_factor", "loss_scale", "loss_scale_mode", "loss_scale_window", "bn_momentum", "amp_level",
    "dataset_sink_mode", "device_target",
)  # fmt: skip


def separate(environment: MutableMapping[str, str], command: str, graphs: Sequence[Config], world: World) -> None:
    """Point MindSpore's cache at the folder of these graphs, in the order in which this process compiles them.

    MindSpore reads the variable when it compiles for the first time, and never again: call before that. Where no cache
    is wanted nothing changes.
    """
    if environment.get("MS_COMPILER_CACHE_ENABLE") == "1" and environment.get(PATH):
        environment[PATH] = str(Path(environment[PATH]) / graph_key(command, graphs, world))


def graph_key(command: str, graphs: Sequence[Config], world: World) -> str:
    """Return a name that is the same for the same graphs only: 16 hexadecimal digits.

    device_target and amp_level must be what "auto" turned out to be: a home may be shared by unlike machines.
    """
    settings = [{name: getattr(graph, name) for name in SHAPING} for graph in graphs]
    digest = hashlib.sha256(json.dumps([command, settings, world.rank, world.ranks, platform.machine()]).encode())
    digest.update(importlib.metadata.version("mindspore").encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
