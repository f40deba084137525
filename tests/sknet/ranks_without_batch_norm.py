"""Train a linear net for eight steps: `python ranks_without_batch_norm.py DATASET BATCH_SIZE packed|fused`.

Without batch norm, two ranks with half the batch each must do what one rank with the whole batch does.
"""

from __future__ import annotations

import os
import sys

import mindspore as ms
import numpy as np
from mindspore import nn

from sknet import dataset
from sknet.config import Config
from sknet.device import choose_device
from sknet.distributed import fuse_collectives, join, world_of
from sknet.step import TrainStep, momentum_optimizer


def main(folder: str, batch_size: int, way: str) -> None:
    world = world_of(Config(), os.environ)
    part = join(world, choose_device("CPU", 0), os.environ)
    if way == "fused":
        fuse_collectives(world)
    weight = np.random.default_rng(1).standard_normal((10, 3 * 32 * 32)).astype(np.float32) * 0.01
    net = nn.SequentialCell(nn.Flatten(), nn.Dense(3 * 32 * 32, 10, weight_init=ms.Tensor(weight), bias_init="zeros"))
    optimizer = momentum_optimizer(net, momentum=0.9, weight_decay=0.1)
    step = TrainStep(net, optimizer, loss_scale=1024.0, ranks=world.ranks, packed=way == "packed")
    pictures = dataset.open_pictures(folder, dataset.TRAIN)
    for epoch in range(1, 5):
        for images, labels in dataset.training_batches(pictures, 32, batch_size, world.rank, world.ranks, 1, epoch):
            loss = step(ms.Tensor(images), ms.Tensor(labels), ms.Tensor(0.01, ms.float32))
            print("loss", float(loss.asnumpy()), flush=True)
    part()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
