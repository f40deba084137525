"""SKNet50 as PyTorch people write it, and its training step: the peer in sknet_throughput.py.

The layers are those of sknet/model.py. Trains on one made-up batch that stays in memory, under torchrun on several
ranks, and appends a line of JSON with `step_s` for each step to the file named in ASCENDRUN_PROGRESS, as sknet.train
does.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel


def convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)


class SelectiveKernel(nn.Module):
    def __init__(self, channels: int, stride: int, groups: int) -> None:
        super().__init__()
        width = max(channels // 16, 32)
        self.branches = nn.ModuleList(
            nn.Sequential(
                convolution(channels, channels, 3, stride, dilation, groups),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            )
            for dilation in (1, 2)
        )
        self.squeeze = nn.Linear(channels, width)
        self.select = nn.Linear(width, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (branch(x) for branch in self.branches)
        compact = F.relu(self.squeeze((first + second).mean((2, 3))))
        weights = torch.softmax(self.select(compact).unflatten(1, (2, -1)), 1)[..., None, None]
        return first * weights[:, 0] + second * weights[:, 1]


class Unit(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        middle = outputs // 2
        self.residual = nn.Sequential(
            convolution(inputs, middle, 1),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            SelectiveKernel(middle, stride, groups),
            nn.BatchNorm2d(middle),
            convolution(middle, outputs, 1),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x), inplace=True)


class SKNet(nn.Sequential):
    def __init__(self, units: "tuple[int, ...]" = (3, 4, 6, 3), width: int = 64, groups: int = 32, classes: int = 10):
        stem = [convolution(3, width, 7, 2), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
        body, inputs = [], width
        for stage, count in enumerate(units):
            outputs = width * 2 ** (stage + 2)
            for position in range(count):
                body.append(Unit(inputs, outputs, 2 if stage and not position else 1, groups))
                inputs = outputs
        super().__init__(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--channels-last", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(1)
    net: nn.Module = SKNet()
    assert sum(parameter.numel() for parameter in net.parameters()) == 25_480_874, "not the net of sknet/model.py"
    pictures = torch.randn(arguments.batch, 3, arguments.side, arguments.side)
    labels = torch.arange(arguments.batch) % 10
    if arguments.channels_last:
        net, pictures = net.to(memory_format=torch.channels_last), pictures.to(memory_format=torch.channels_last)
    weights = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in net.parameters() if parameter.ndim == 1]
    sgd = torch.optim.SGD([{"params": weights, "weight_decay": 1e-4}, {"params": others}], lr=0.01, momentum=0.9)
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if distributed:
        torch.distributed.init_process_group("gloo")
        net = DistributedDataParallel(net)
    with open(os.environ["ASCENDRUN_PROGRESS"], "a", buffering=1) as progress:
        for _ in range(arguments.steps):
            began = time.monotonic()
            sgd.zero_grad()
            loss = F.cross_entropy(net(pictures), labels)
            loss.backward()
            sgd.step()
            loss.item()
            print(json.dumps({"kind": "step", "step_s": time.monotonic() - began}), file=progress)
    if distributed:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
