"""SKNet: Li, Wang, Hu, Yang, "Selective Kernel Networks", CVPR 2019, arXiv:1903.06586.

Read from top to bottom: any convolution, the selective kernel convolution, the unit around it, the network.
Two details are those of the published MindSpore recipe (mindspore-ai/models, research/cv/sknet), whose parameter
counts this net keeps, not the names in its checkpoints: the convolutions of the attention have biases where the paper
has a batch norm and none, and a batch norm follows the selective kernels.

What deliberately differs from that recipe, here and in its training:

- Activations are the paper's; the recipe has none after the first convolution of a unit and none in the attention.
- Batch norms start with a scale of 1, or of END_SCALE at the end of a unit; the recipe draws most scales from +-0.07.
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
from mindspore.common import initializer

BRANCHES = 2  # M: kernels to select from; branch i is a 3x3 convolution of dilation i + 1 (paper, section 3.2)
REDUCTION = 16  # r: the attention is C / r wide ...
LEAST_WIDTH = 32  # L: ... but never narrower than this (paper, equation 4)
# Batch norms that end a unit start with this scale. With 1 the 2,048 features are so large that few classes make the
# loss too steep for the rates that the rest of the net wants; with 0 units take epochs to wake up. Four epochs of
# sknet26 on 4,000 pictures of CIFAR-10, each at its best rate: 36% with 1, 20% with 0, 42% with 0.2.
END_SCALE = 0.2


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


class Convolution(nn.Conv2d):
    """A convolution that keeps H and W (but for the stride): (B, inputs, H, W) -> (B, outputs, H', W').

    Its weight (outputs, inputs / groups, kernel, kernel) is the same whichever way it is computed, so that a checkpoint
    serves all of them:

    - by one operator of the backend;
    - split: a convolution for each group, for Ascend software that has no grouped one or a slow one;
    - a 1x1 convolution of few positions as one matrix product of the whole batch: on CPU the operator multiplies
      picture by picture, which takes up to six times as long when each has but one to four columns.

    Its weights start Kaiming fan-out normal, its bias at 0. Source: He et al., "Delving Deep into Rectifiers",
    arXiv:1502.01852, section 2.2 (backward case).
    """

    FEW_POSITIONS = 4  # of H' x W'; at 16 both ways are equally fast

    def __init__(
        self,
        rng: np.random.Generator,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        split: bool = False,
        has_bias: bool = False,
    ) -> None:
        deviation = math.sqrt(2.0 / (outputs // groups * kernel * kernel))
        weight = rng.standard_normal((outputs, inputs // groups, kernel, kernel), dtype=np.float32) * deviation
        padding = dilation * (kernel - 1) // 2
        super().__init__(
            inputs,
            outputs,
            kernel,
            stride,
            pad_mode="pad",
            padding=padding,
            dilation=dilation,
            group=groups,
            has_bias=has_bias,
            weight_init=ms.Tensor(weight),
            bias_init="zeros",
        )
        self.split = split and groups > 1
        if self.split:
            self.of_one_group = ops.Conv2D(
                outputs // groups, kernel, pad_mode="pad", pad=padding, stride=stride, dilation=dilation
            )
        self.pointwise = kernel == 1 and groups == 1
        self.step = stride
        self.product = ops.MatMul(transpose_b=True)

    def construct(self, x):
        if self.split:
            pieces = zip(ops.chunk(x, self.group, 1), ops.chunk(self.weight, self.group, 0))
            return ops.concat([self.of_one_group(piece, weight) for piece, weight in pieces], 1)
        if self.pointwise and x.shape[2] * x.shape[3] <= self.FEW_POSITIONS * self.step**2:
            return self.by_product(x)
        out = self.conv2d(x, self.weight)
        return self.bias_add(out, self.bias) if self.has_bias else out

    def by_product(self, x: ms.Tensor) -> ms.Tensor:
        if self.step > 1:
            x = x[:, :, :: self.step, :: self.step]
        rows = x.transpose((0, 2, 3, 1)).reshape((-1, self.in_channels))  # (B * H' * W', inputs)
        out = self.product(rows, self.weight.reshape((self.out_channels, self.in_channels)))
        if self.has_bias:
            out = out + self.bias
        return out.reshape((-1, x.shape[2], x.shape[3], self.out_channels)).transpose((0, 3, 1, 2))


@dataclass(frozen=True)
class Parts:
    """Makes the parts of one net: what all of them have in common."""

    rng: np.random.Generator  # of all initial weights, so the order in which parts are made matters
    bn_momentum: float  # share of the old running statistics that each step keeps
    split: bool  # grouped convolutions group by group

    def convolution(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        has_bias: bool = False,
    ) -> Convolution:
        return Convolution(
            self.rng,
            inputs,
            outputs,
            kernel,
            stride=stride,
            dilation=dilation,
            groups=groups,
            split=self.split,
            has_bias=has_bias,
        )

    def normalisation(self, channels: int, scale: float = 1.0) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=1e-5, momentum=self.bn_momentum, gamma_init=initializer.Constant(scale))


class SKConvolution(nn.Cell):
    """Selective kernel convolution: split, fuse, select (paper, section 3.1). (B, C, H, W) -> (B, C, H', W')."""

    def __init__(self, parts: Parts, channels: int, stride: int, groups: int) -> None:
        super().__init__()
        attention = max(channels // REDUCTION, LEAST_WIDTH)
        self.branches = nn.CellList(
            [
                nn.SequentialCell(
                    parts.convolution(channels, channels, 3, stride=stride, dilation=1 + branch, groups=groups),
                    parts.normalisation(channels),
                    nn.ReLU(),
                )
                for branch in range(BRANCHES)
            ]
        )
        self.squeeze = nn.SequentialCell(parts.convolution(channels, attention, 1, has_bias=True), nn.ReLU())
        self.select = nn.CellList([parts.convolution(attention, channels, 1, has_bias=True) for _ in range(BRANCHES)])

    def construct(self, x):
        split = [branch(x) for branch in self.branches]  # M of (B, C, H', W')
        fused = split[0]
        for features in split[1:]:
            fused = fused + features  # U, equation 1
        summary = ops.mean(fused, (2, 3), True)  # s (B, C, 1, 1), equation 2
        compact = self.squeeze(summary)  # z (B, D, 1, 1), equation 3
        scores = [score(compact) for score in self.select]  # M of (B, C, 1, 1)
        # Softmax over the branches, equation 5, spelt out: on CPU an operator along a short middle axis is slow.
        highest = scores[0]
        for score in scores[1:]:
            highest = ops.maximum(highest, score)
        powers = [ops.exp(score - ops.stop_gradient(highest)) for score in scores]
        total = powers[0]
        for power in powers[1:]:
            total = total + power
        # V, equation 6. Weights add up to 1, so the first branch needs none: one reduction less on the way back.
        selected = split[0]
        for branch in range(1, BRANCHES):
            selected = selected + (split[branch] - split[0]) * (powers[branch] / total)
        return selected


class SKUnit(nn.Cell):
    """Bottleneck: 1x1, selective kernel, 1x1 convolution, beside a shortcut. (B, inputs, ..) -> (B, outputs, ..)."""

    def __init__(self, parts: Parts, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        middle = outputs // 2
        self.reduce = nn.SequentialCell(parts.convolution(inputs, middle, 1), parts.normalisation(middle), nn.ReLU())
        self.kernels = nn.SequentialCell(SKConvolution(parts, middle, stride, groups), parts.normalisation(middle))
        self.expand = nn.SequentialCell(
            parts.convolution(middle, outputs, 1), parts.normalisation(outputs, scale=END_SCALE)
        )
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.SequentialCell(
                parts.convolution(inputs, outputs, 1, stride=stride), parts.normalisation(outputs, scale=END_SCALE)
            )
        self.activate = nn.ReLU()

    def construct(self, x):
        residual = self.expand(self.kernels(self.reduce(x)))  # (B, outputs, H', W')
        return self.activate(residual + self.shortcut(x))


class SKNet(nn.Cell):
    """Stem, stages of SK units, mean over the picture, linear head. Pictures (B, 3, S, S) -> logits (B, classes)."""

    def __init__(self, shape: Shape, class_num: int, parts: Parts) -> None:
        super().__init__()
        self.stem = nn.SequentialCell(
            parts.convolution(3, shape.width, 7, stride=2),
            parts.normalisation(shape.width),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, pad_mode="same"),
        )
        units, inputs = [], shape.width
        for stage, count in enumerate(shape.units):
            outputs = shape.width * 2 ** (stage + 2)
            for unit in range(count):
                stride = 2 if stage > 0 and unit == 0 else 1
                units.append(SKUnit(parts, inputs, outputs, stride, shape.groups))
                inputs = outputs
        self.stages = nn.SequentialCell(units)
        # Normal of deviation 0.01, cut off at two deviations: the published recipe's head.
        weight = parts.rng.standard_normal((class_num, inputs), dtype=np.float32)
        while (far := np.abs(weight) > 2.0).any():
            weight[far] = parts.rng.standard_normal(int(far.sum()), dtype=np.float32)
        self.head = nn.Dense(inputs, class_num, weight_init=ms.Tensor(weight * np.float32(0.01)), bias_init="zeros")

    def construct(self, pictures):
        features = self.stages(self.stem(pictures))  # (B, C, S/32, S/32) with four stages
        return self.head(ops.mean(features, (2, 3)))


def build(
    net: str, class_num: int, bn_momentum: float = 0.9, seed: int = 1, group_convolution: str = "native"
) -> SKNet:
    """Return the net of that name in SHAPES, with the same weights for the same *seed*, so that all ranks start as one.

    *group_convolution* is "native" or "split", see Convolution. Raises KeyError for an unknown net.
    """
    parts = Parts(np.random.default_rng(seed), bn_momentum, split=group_convolution == "split")
    return SKNet(SHAPES[net], class_num, parts)


def decayed(net: nn.Cell) -> tuple[list[ms.Parameter], list[ms.Parameter]]:
    """Split the trainable parameters into (weights that decay, biases and batch norm that do not).

    Source: Goyal et al., arXiv:1706.02677, section 5.3; weights of convolutions and the head have two axes or more.
    """
    parameters = net.trainable_params()
    return [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim == 1]
