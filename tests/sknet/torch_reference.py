"""SKNet once more, in PyTorch, to hold `sknet.model` against: functions over a plain dict of weights.

Written from the paper (Li, Wang, Hu, Yang: "Selective Kernel Networks", arXiv:1903.06586; numbers in brackets are its
equations) and from the two deviations that the docstring of `sknet.model` states: the attention has biases and no batch
norm, and a batch norm follows the selective kernels. What the paper leaves open is as in the authors' own net
(github.com/implus/SKNet, models/sknet50.prototxt): nothing but that batch norm stands between V and the last
convolution of a unit, and the first pooling begins at the first pixel of an even number of them.

Names of weights: `stem`, `head`, and for each unit its `reduce`, `kernel0` and `kernel1` (the paper's F-tilde and
F-hat), `W`, `attention0` and `attention1` (its A and B), `fused`, `expand` and, where it has one, `shortcut`. Behind
each stands `.weight` and `.bias` of a linear map, or `.scale`, `.shift`, `.mean`, `.variance` of a batch norm.

Letters in shape comments: B pictures, C channels, H and W height and width, D attention width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

UNITS = {"sknet26": (2, 2, 2, 2), "sknet50": (3, 4, 6, 3), "sknet101": (3, 4, 23, 3), "sknet_tiny": (1, 1)}
GROUPS = {"sknet_tiny": 4}  # of the others: 32
EPSILON = 1e-5  # of batch norms

# Where a MindSpore cell stands in its unit, and what we call it.
UNIT_PARTS = {
    "reduce.0": "reduce",
    "reduce.1": "reduce",
    "kernels.0.branches.0.0": "kernel0",
    "kernels.0.branches.0.1": "kernel0",
    "kernels.0.branches.1.0": "kernel1",
    "kernels.0.branches.1.1": "kernel1",
    "kernels.0.squeeze.0": "W",
    "kernels.0.select.0": "attention0",
    "kernels.0.select.1": "attention1",
    "kernels.1": "fused",
    "expand.0": "expand",
    "expand.1": "expand",
    "shortcut.0": "shortcut",
    "shortcut.1": "shortcut",
}
TENSORS = {
    "weight": "weight",
    "bias": "bias",
    "gamma": "scale",
    "beta": "shift",
    "moving_mean": "mean",
    "moving_variance": "variance",
}


def our_name(name: str) -> str:
    """Translate the name of a MindSpore tensor. Raises KeyError or ValueError for one that the net should not have."""
    cell, _, tensor = name.rpartition(".")
    if cell in ("stem.0", "stem.1", "head"):
        part = cell.partition(".")[0]
    elif match := re.fullmatch(r"stages\.(\d+)\.(.+)", cell):
        part = f"unit{match[1]}.{UNIT_PARTS[match[2]]}"
    else:
        raise ValueError(f"no such tensor in an SKNet: {name}")
    return f"{part}.{TENSORS[tensor]}"


class Reference:
    """One SKNet with given weights: *tensors* of a MindSpore net by its names.

    Leaves of autograd are all but running statistics. *momentum* is the share of those kept in each step.
    """

    def __init__(self, net: str, tensors: Mapping[str, np.ndarray], momentum: float) -> None:
        self.units = UNITS[net]
        self.groups = GROUPS.get(net, 32)
        self.momentum = momentum
        self.weights = {our_name(name): torch.from_numpy(value.copy()) for name, value in tensors.items()}
        assert len(self.weights) == len(tensors), "two tensors have one name"
        for name, weight in self.weights.items():
            weight.requires_grad_(not name.endswith((".mean", ".variance")))
        self.used: set[str] = set()

    def leaves(self) -> dict[str, Tensor]:
        return {name: weight for name, weight in self.weights.items() if weight.requires_grad}

    def logits(self, pictures: np.ndarray, training: bool) -> Tensor:
        """Pictures (B, 3, S, S) -> (B, classes). In training, running statistics go on by one step."""
        self.training = training
        self.used = set()
        x = self.convolution("stem", torch.from_numpy(pictures), stride=2)
        x = pool(F.relu(self.batch_norm("stem", x)))
        number = 0
        for stage, count in enumerate(self.units):
            for position in range(count):
                x = self.unit(f"unit{number}", x, stride=2 if stage > 0 and position == 0 else 1)
                number += 1
        logits = self.linear("head", x.mean(dim=(2, 3)))
        assert self.used == set(self.weights), f"not used: {sorted(set(self.weights) - self.used)}"
        return logits

    def unit(self, name: str, x: Tensor, stride: int) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W'): table 1, the brackets of column SKNet-50."""
        shortcut = x
        if f"{name}.shortcut.weight" in self.weights:
            shortcut = self.batch_norm(f"{name}.shortcut", self.convolution(f"{name}.shortcut", x, stride=stride))
        x = F.relu(self.batch_norm(f"{name}.reduce", self.convolution(f"{name}.reduce", x)))
        x = self.batch_norm(f"{name}.fused", self.selective_kernels(name, x, stride))
        x = self.batch_norm(f"{name}.expand", self.convolution(f"{name}.expand", x))
        return F.relu(shortcut + x)

    def selective_kernels(self, name: str, x: Tensor, stride: int) -> Tensor:
        """X (B, C, H, W) -> V (B, C, H', W'), section 3.1."""
        branches = []
        for branch in (0, 1):  # 3x3, and 5x5 as 3x3 of dilation 2
            part = f"{name}.kernel{branch}"
            out = self.convolution(part, x, stride=stride, dilation=1 + branch, groups=self.groups)
            branches.append(F.relu(self.batch_norm(part, out)))
        u = branches[0] + branches[1]  # (1)
        s = u.sum(dim=(2, 3)) / (u.shape[2] * u.shape[3])  # (B, C) (2)
        z = F.relu(self.linear(f"{name}.W", s))  # (B, D) (3)
        assert z.shape[1] == max(u.shape[1] // 16, 32)  # (4): r = 16, L = 32
        # (5): e^Az / (e^Az + e^Bz) is the logistic function of Az - Bz, and (6): a + b = 1
        a = torch.sigmoid(self.linear(f"{name}.attention0", z) - self.linear(f"{name}.attention1", z))[:, :, None, None]
        return a * branches[0] + (1 - a) * branches[1]  # (6)

    def take(self, name: str) -> Tensor:
        self.used.add(name)
        return self.weights[name]

    def convolution(self, name: str, x: Tensor, stride: int = 1, dilation: int = 1, groups: int = 1) -> Tensor:
        """No bias; as many zeros around the picture as the kernel reaches beyond its centre."""
        weight = self.take(f"{name}.weight")
        return F.conv2d(x, weight, None, stride, dilation * (weight.shape[-1] // 2), dilation, groups)

    def linear(self, name: str, x: Tensor) -> Tensor:
        """(B, C) -> (B, C'), whether the weight is a matrix or a 1x1 convolution."""
        weight = self.take(f"{name}.weight")
        return x @ weight.reshape(weight.shape[:2]).T + self.take(f"{name}.bias")

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        """Source: Ioffe and Szegedy, arXiv:1502.03167, algorithms 1 and 2 (running variance: the unbiased one)."""
        mean, variance = self.take(f"{name}.mean"), self.take(f"{name}.variance")
        if self.training:
            count = x.numel() // x.shape[1]
            running = ((mean, x.mean(dim=(0, 2, 3)), 1.0), (variance, x.var(dim=(0, 2, 3)), (count - 1) / count))
            mean, variance = (batch * factor for _, batch, factor in running)
            for kept, batch, _ in running:
                kept.mul_(self.momentum).add_(batch.detach(), alpha=1 - self.momentum)
        scale = self.take(f"{name}.scale") / torch.sqrt(variance + EPSILON)
        shift = self.take(f"{name}.shift") - mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


def pool(x: Tensor) -> Tensor:
    """Maximum of 3x3 pixels, every second one: (B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2)).

    Of an even number of pixels the first window starts at the first, as in the authors' net; torch's padding=1 would
    start one before. Of an odd number it starts one before.
    """
    edges = [edge for side in (x.shape[3], x.shape[2]) for edge in (side % 2, 1)]  # left, right, top, bottom
    return F.max_pool2d(F.pad(x, edges, value=-torch.inf), kernel_size=3, stride=2)
