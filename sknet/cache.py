"""A compile cache that can be trusted: one folder for each graph.

MindSpore's own cache (MS_COMPILER_CACHE_ENABLE, MS_COMPILER_CACHE_PATH) does not look at the numbers in a graph:
measured with 2.10, a run with a longer list of learning rates got the old run's graph, old rates included, without a
word. So each process takes a folder of its own below the one that is given, named by
all that shapes its graph.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import MutableMapping
from pathlib import Path

from sknet.config import Config
from sknet.distributed import World

PATH = "MS_COMPILER_CACHE_PATH"
# All that ends up in a graph. Rates, epochs, seeds and paths stay outside: weights and rates are parameters.
SHAPING = (
    "net", "class_num", "image_size", "batch_size", "momentum", "weight_decay", "loss_scale", "bn_momentum",
    "amp_level", "device_target",
)  # fmt: skip


def separate(environment: MutableMapping[str, str], command: str, config: Config, world: World, more: str = "") -> None:
    """Point MindSpore's cache at the folder of this graph; *more* is what shapes it besides the settings.

    Call before MindSpore is imported. Where no cache is wanted nothing changes.
    """
    if environment.get("MS_COMPILER_CACHE_ENABLE") == "1" and environment.get(PATH):
        environment[PATH] = str(Path(environment[PATH]) / graph_key(command, config, world, more))


def graph_key(command: str, config: Config, world: World, more: str = "") -> str:
    """Return a name that is the same for the same graph only: 16 hexadecimal digits."""
    settings = {name: getattr(config, name) for name in SHAPING}
    digest = hashlib.sha256(json.dumps([command, settings, world.rank, world.ranks, more]).encode())
    digest.update(importlib.metadata.version("mindspore").encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
