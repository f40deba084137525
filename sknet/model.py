"""SKNet: Li, Wang, Hu, Yang, "Selective Kernel Networks", CVPR 2019, arXiv:1903.06586.

Read from top to bottom: initial values, the selective kernel convolution, the unit around it, the network.
Two details are those of the published MindSpore recipe (mindspore-ai/models, research/cv/sknet), whose parameter
counts this net keeps, not the names in its checkpoints: the attention has a bias where the paper has a batch norm, and
a batch norm follows the selective kernels.

What deliberately differs from that recipe, here and in its training:

- Activations are the paper's; the recipe has none after the first convolution of a unit and none in the attention.
- Batch norms start with a scale of 1, or of 0 at the end of a unit; the recipe draws most scales from +-0.07.
- The attention starts like any convolution, Kaiming fan-out; the recipe takes the head's narrow normal for it.
- Running statistics keep 0.9 of their value in a step (bn_momentum), so that they are right after some 50 steps; the
  recipe keeps 0.99, and 0.95 inside the selective kernels.
- Under mixed precision batch norms stay in full precision; the recipe sets keep_batchnorm_fp32=False.
- The learning rate ends at lr_end, where the recipe's schedule ends at 0.
- The last, partial batch of an evaluation counts.

Letters in shape comments: B pictures, C channels, H and W height and width, M branches, D attention width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import nn, ops

BRANCHES = 2  # M: kernels to select from; branch i is a 3x3 convolution of dilation i + 1 (paper, section 3.2)
REDUCTION = 16  # r: the attention is C / r wide ...
LEAST_WIDTH = 32  # L: ... but never narrower than this (paper, equation 4)


@dataclass(frozen=True)
class Shape:
    """The size of one SKNet. Stage i has units[i] units of width * 2**(i + 1) channels inside, twice that outside."""

    units: tuple[int, ...]
    width: int = 64  # channels after the stem
    groups: int = 32  # G: groups of each 3x3 convolution; must divide 2 * width


# Paper, table 1 (SKNet-50) and section 4.1 (26, 101). sknet_tiny is no published net: a toy that trains in seconds.
SHAPES = {
    "sknet26": Shape((2, 2, 2, 2)),
    "sknet50": Shape((3, 4, 6, 3)),
    "sknet101": Shape((3, 4, 23, 3)),
    "sknet_tiny": Shape((1, 1), width=8, groups=4),
}


def convolution(
    rng: np.random.Generator,
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    has_bias: bool = False,
) -> nn.Conv2d:
    """Return a convolution that keeps H and W (but for the stride), with Kaiming fan-out normal weights.

    Source: He et al., "Delving Deep into Rectifiers", arXiv:1502.01852, section 2.2 (backward case).
    """
    deviation = math.sqrt(2.0 / (outputs // groups * kernel * kernel))
    weight = rng.standard_normal((outputs, inputs // groups, kernel, kernel), dtype=np.float32) * deviation
    return nn.Conv2d(
        inputs,
        outputs,
        kernel,
        stride,
        pad_mode="pad",
        padding=dilation * (kernel - 1) // 2,
        dilation=dilation,
        group=groups,
        has_bias=has_bias,
        weight_init=ms.Tensor(weight),
        bias_init="zeros",
    )


def normalisation(channels: int, momentum: float, scale: str = "ones") -> nn.BatchNorm2d:
    """Return a batch norm; *momentum* is the share of the old running statistics kept in each step."""
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=momentum, gamma_init=scale)


class SKConvolution(nn.Cell):
    """Selective kernel convolution: split, fuse, select (paper, section 3.1). (B, C, H, W) -> (B, C, H', W')."""

    def __init__(self, rng: np.random.Generator, channels: int, stride: int, groups: int, momentum: float) -> None:
        super().__init__()
        attention = max(channels // REDUCTION, LEAST_WIDTH)
        self.branches = nn.CellList(
            [
                nn.SequentialCell(
                    convolution(rng, channels, channels, 3, stride=stride, dilation=1 + branch, groups=groups),
                    normalisation(channels, momentum),
                    nn.ReLU(),
                )
                for branch in range(BRANCHES)
            ]
        )
        self.squeeze = nn.SequentialCell(convolution(rng, channels, attention, 1, has_bias=True), nn.ReLU())
        self.select = nn.CellList([convolution(rng, attention, channels, 1, has_bias=True) for _ in range(BRANCHES)])

    def construct(self, x):
        split = [branch(x) for branch in self.branches]  # M of (B, C, H', W')
        fused = split[0]
        for features in split[1:]:
            fused = fused + features  # U, equation 1
        summary = ops.mean(fused, (2, 3), True)  # s (B, C, 1, 1), equation 2
        compact = self.squeeze(summary)  # z (B, D, 1, 1), equation 3
        scores = ops.stack([score(compact) for score in self.select], 1)  # (B, M, C, 1, 1)
        weights = ops.softmax(scores, 1)  # over the branches, equation 5
        selected = split[0] * weights[:, 0]
        for branch in range(1, BRANCHES):
            selected = selected + split[branch] * weights[:, branch]  # V, equation 6
        return selected


class SKUnit(nn.Cell):
    """Bottleneck: 1x1, selective kernel, 1x1 convolution, beside a shortcut. (B, inputs, ..) -> (B, outputs, ..)."""

    def __init__(
        self, rng: np.random.Generator, inputs: int, outputs: int, stride: int, groups: int, momentum: float
    ) -> None:
        super().__init__()
        middle = outputs // 2
        self.reduce = nn.SequentialCell(convolution(rng, inputs, middle, 1), normalisation(middle, momentum), nn.ReLU())
        self.kernels = nn.SequentialCell(
            SKConvolution(rng, middle, stride, groups, momentum), normalisation(middle, momentum)
        )
        # A scale of 0 lets each unit begin as its shortcut: Goyal et al., arXiv:1706.02677, section 5.1.
        self.expand = nn.SequentialCell(convolution(rng, middle, outputs, 1), normalisation(outputs, momentum, "zeros"))
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.SequentialCell(
                convolution(rng, inputs, outputs, 1, stride=stride), normalisation(outputs, momentum)
            )
        self.activate = nn.ReLU()

    def construct(self, x):
        residual = self.expand(self.kernels(self.reduce(x)))  # (B, outputs, H', W')
        return self.activate(residual + self.shortcut(x))


class SKNet(nn.Cell):
    """Stem, stages of SK units, mean over the picture, linear head. Pictures (B, 3, S, S) -> logits (B, classes)."""

    def __init__(self, shape: Shape, class_num: int, bn_momentum: float = 0.9, seed: int = 1) -> None:
        """Build the net with the same weights for the same *seed*, so that all ranks start as one."""
        super().__init__()
        rng = np.random.default_rng(seed)
        self.stem = nn.SequentialCell(
            convolution(rng, 3, shape.width, 7, stride=2),
            normalisation(shape.width, bn_momentum),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, pad_mode="same"),
        )
        units, inputs = [], shape.width
        for stage, count in enumerate(shape.units):
            outputs = shape.width * 2 ** (stage + 2)
            for unit in range(count):
                stride = 2 if stage > 0 and unit == 0 else 1
                units.append(SKUnit(rng, inputs, outputs, stride, shape.groups, bn_momentum))
                inputs = outputs
        self.stages = nn.SequentialCell(units)
        # Normal of deviation 0.01, cut off at two deviations: the published recipe's head.
        weight = rng.standard_normal((class_num, inputs), dtype=np.float32)
        while (far := np.abs(weight) > 2.0).any():
            weight[far] = rng.standard_normal(int(far.sum()), dtype=np.float32)
        self.head = nn.Dense(inputs, class_num, weight_init=ms.Tensor(weight * np.float32(0.01)), bias_init="zeros")

    def construct(self, pictures):
        features = self.stages(self.stem(pictures))  # (B, C, S/32, S/32) with four stages
        return self.head(ops.mean(features, (2, 3)))


def build(net: str, class_num: int, bn_momentum: float = 0.9, seed: int = 1) -> SKNet:
    """Return the net of that name in SHAPES. Raises KeyError for any other name."""
    return SKNet(SHAPES[net], class_num, bn_momentum, seed)


def decayed(net: nn.Cell) -> tuple[list[ms.Parameter], list[ms.Parameter]]:
    """Split the trainable parameters into (weights that decay, biases and batch norm that do not).

    Source: Goyal et al., arXiv:1706.02677, section 5.3; weights of convolutions and the head have two axes or more.
    """
    parameters = net.trainable_params()
    return [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim == 1]
