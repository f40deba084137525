"""One training step as one compiled graph: loss, gradients, their mean over the ranks, and the update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from sknet.loss import CrossEntropy
from sknet.model import decayed

# A loop over hundreds of gradients would unroll into a call depth that the compiler refuses; a map does not.
each = ops.HyperMap()
times = ops.MultitypeFuncGraph("times")
flatten = ops.MultitypeFuncGraph("flatten")
cut = ops.MultitypeFuncGraph("cut")
plus = ops.MultitypeFuncGraph("plus")


@times.register("Number", "Tensor")
def _(factor, gradient):
    return gradient * factor


@times.register("Tensor", "Tensor")
def _(factor, gradient):
    return gradient * factor


@flatten.register("Tensor")
def _(gradient):
    return gradient.reshape((-1,))


@plus.register("Tensor", "Tensor")
def _(one, other):
    return one + other


@cut.register("Tensor", "Number", "Tensor")
def _(packed, start, gradient):
    return ops.slice(packed, (start,), (gradient.size,)).reshape(gradient.shape)


class ScaledLoss(nn.Cell):
    """Mean loss of a batch times a factor: what is differentiated. (B, 3, S, S), (B,) -> ()."""

    def __init__(self, net: nn.Cell, scale: float | ms.Parameter | None, label_smooth_factor: float) -> None:
        super().__init__()
        self.net = net
        self.loss = CrossEntropy(label_smooth_factor)
        self.scale = scale

    def construct(self, pictures, labels):
        loss = self.loss(self.net(pictures), labels).mean()
        return loss if self.scale is None else loss * self.scale


class OneRank(nn.Cell):
    """Only takes the loss scale out again, if there is one: there is nobody to share with."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def construct(self, loss, gradients, asked):
        if self.factor == 1.0:
            return loss, gradients, asked
        return loss * self.factor, each(ops.partial(times, self.factor), gradients), asked


class PackedMean(nn.Cell):
    """Mean over all ranks by one all-reduce of one flat buffer, which holds the loss and whether to end as well.

    For backends that do not fuse collectives themselves: on CPU an all-reduce costs a round trip per tensor.
    """

    def __init__(self, sizes: list[int], factor: float) -> None:
        super().__init__()
        self.starts = tuple(np.cumsum([0, *sizes[:-1]]).tolist())
        self.total = sum(sizes)
        self.factor = factor
        self.all_reduce = ops.AllReduce()

    def construct(self, loss, gradients, asked):
        flat = each(flatten, gradients)
        buffer = ops.concat((*flat, loss.reshape((1,)), asked.reshape((1,))))  # (all weights + 2,)
        packed = self.all_reduce(buffer) * self.factor
        return packed[self.total], each(ops.partial(cut, packed), self.starts, gradients), packed[self.total + 1]


class FusedMean(nn.Cell):
    """Mean over all ranks by the backend's own fused all-reduces, which run beside the backward pass."""

    def __init__(self, parameters: ms.ParameterTuple, ranks: int, factor: float) -> None:
        super().__init__()
        self.reduce = nn.DistributedGradReducer(parameters, mean=False, degree=ranks)
        self.all_reduce = ops.AllReduce()
        self.factor = factor

    def construct(self, loss, gradients, asked):
        both = self.all_reduce(ops.stack((loss, asked))) * self.factor
        return both[0], each(ops.partial(times, self.factor), self.reduce(gradients)), both[1]


class DynamicScale(nn.Cell):
    """A loss scale that finds its own size: halved (to 1 at least) when gradients overflow, doubled after *window*
    steps without overflow. Called with whether all gradients were finite, (): returns nothing, changes itself.

    Source: Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740, section 3.2.
    """

    MOST = 2.0**24

    def __init__(self, first: float, window: int) -> None:
        super().__init__()
        self.window = window
        self.value = scalar(first, ms.float32, "value")
        self.good = scalar(0, ms.int32, "good")  # steps since the last change
        self.skipped = scalar(0, ms.int32, "skipped")  # updates in all

    def construct(self, finite):
        good = self.good + 1
        grown = ops.select(good >= self.window, ops.minimum(self.value * 2.0, self.MOST), self.value * 1.0)
        value = ops.select(finite, grown, ops.maximum(self.value * 0.5, 1.0))
        good = ops.select(ops.logical_and(finite, good < self.window), good, ops.zeros_like(good))
        skipped = self.skipped + ops.logical_not(finite).astype(ms.int32)
        return ops.assign(self.value, value), ops.assign(self.good, good), ops.assign(self.skipped, skipped)


def scalar(value: float, kind: ms.Type, name: str) -> ms.Parameter:
    """Return a number of a graph's state that no optimiser changes: shape ()."""
    return ms.Parameter(ms.Tensor(value, kind), name=name, requires_grad=False)


class TrainStep(nn.Cell):
    """Pictures (B, 3, S, S), labels (B,) of this rank, rate () -> loss (), the mean over all ranks. Updates the net.

    The learning rate is an input: a list of rates in the graph would come back out of a compile cache, see cache.py.
    Gradients are unscaled before the optimiser sees them, so momentum and weight decay never meet the loss scale; a
    scale of 1 leaves no multiplication in the graph. With *scale_window* the loss scale is a DynamicScale, `scaling`,
    and an update whose gradients overflowed on any rank is skipped on all; batch statistics move on all the same.

    A rank that was asked to end says so in the all-reduce of its next step (ask_to_end); all know after that same step
    (`end_agreed`), so none leaves alone. One rank has nobody to tell, and knows at once.

    *parts* > 1 takes a batch in so many pieces, one after the other. Batch norm sees one piece at a time.
    """

    def __init__(
        self,
        net: nn.Cell,
        optimizer: nn.Cell,
        loss_scale: float,
        ranks: int,
        packed: bool,
        *,
        label_smooth_factor: float = 0.0,
        scale_window: int | None = None,
        parts: int = 1,
    ) -> None:
        super().__init__()
        self.parts = parts
        self.optimizer = optimizer
        self.weights = ms.ParameterTuple(optimizer.parameters)
        self.scaling = DynamicScale(loss_scale, scale_window) if scale_window else None
        scale = self.scaling.value if self.scaling else None if loss_scale == 1.0 else loss_scale
        self.asked = scalar(0, ms.float32, "asked")
        self.agreed = scalar(0, ms.float32, "agreed")
        self.ranks = ranks
        self.forward = ScaledLoss(net, scale, label_smooth_factor)  # a cell of ours, so that set_train reaches the net
        self.differentiate = ops.value_and_grad(self.forward, None, self.weights)
        factor = 1.0 / (ranks * parts) if self.scaling else 1.0 / (loss_scale * ranks * parts)
        if ranks == 1:
            self.mean: nn.Cell = OneRank(factor)
        elif packed:
            self.mean = PackedMean([weight.size for weight in self.weights], factor)
        else:
            self.mean = FusedMean(self.weights, ranks, factor)

    def construct(self, pictures, labels, rate):
        ops.assign(self.optimizer.learning_rate, rate)
        loss, gradients = self.sum_of_parts(pictures, labels)
        loss, gradients, agreed = self.mean(loss, gradients, self.asked)
        if self.ranks > 1:
            loss = ops.depend(loss, ops.assign(self.agreed, agreed))
        if self.scaling is None:
            return ops.depend(loss, self.optimizer(gradients))
        unscale = 1.0 / self.scaling.value
        gradients = each(ops.partial(times, unscale), gradients)
        loss = loss * unscale
        finite = ms.amp.all_finite(gradients)
        if finite:
            loss = ops.depend(loss, self.optimizer(gradients))
        return ops.depend(loss, self.scaling(finite))

    def sum_of_parts(self, pictures: ms.Tensor, labels: ms.Tensor) -> Any:
        """Return loss and gradients, added up over the parts: the next one begins when the memory of one is free.

        Of n parts one takes every n-th picture: so those of one rank are what each of n ranks would have taken.
        """
        if self.parts == 1:
            return self.differentiate(pictures, labels)
        loss, gradients = self.differentiate(pictures[0 :: self.parts], labels[0 :: self.parts])
        for part in range(1, self.parts):
            pictures = ops.depend(pictures, gradients)
            further, more = self.differentiate(pictures[part :: self.parts], labels[part :: self.parts])
            loss, gradients = loss + further, each(plus, gradients, more)
        return loss, gradients

    def ask_to_end(self) -> None:
        """Tell all ranks, with the next step, that this one was asked to end."""
        for told in (self.asked,) if self.ranks > 1 else (self.asked, self.agreed):
            told.set_data(ms.Tensor(1.0, ms.float32))

    @property
    def end_agreed(self) -> bool:
        """Whether all ranks know since this step that one of them was asked to end."""
        return bool(self.agreed.asnumpy() > 0)

    def state(self, tensors: Mapping[str, ms.Parameter]) -> dict[str, ms.Parameter]:
        """Return what a resumed run needs beside the net's own *tensors*: momentum buffers and loss scale, by name."""
        name_of = {id(tensor): name for name, tensor in tensors.items()}
        moments = zip(self.optimizer.parameters, self.optimizer.moments, strict=True)
        state = {f"moment.{name_of[id(weight)]}": moment for weight, moment in moments}
        if self.scaling:
            state |= {f"loss_scale.{part}": getattr(self.scaling, part) for part in ("value", "good", "skipped")}
        return state


def momentum_optimizer(net: nn.Cell, momentum: float, weight_decay: float) -> nn.Momentum:
    """Return SGD with momentum; biases and batch norm do not decay. TrainStep sets its rate."""
    weights, others = decayed(net)
    groups = [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return nn.Momentum(groups, 0.0, momentum)


class InHalf(nn.Cell):
    """Computes one layer in half precision and gives its result back in full."""

    def __init__(self, layer: nn.Cell) -> None:
        super().__init__(auto_prefix=False)  # the layer keeps the name of its parameters
        self.layer = layer.to_float(ms.float16)

    def construct(self, x):
        return self.layer(x).astype(ms.float32)


def mixed_precision(net: nn.Cell, level: str) -> nn.Cell:
    """Return the net with its parts cast to half precision as *level* O0, O1, O2 or O3 says.

    This changes the net itself: cells get other cells around them that convert what comes and goes, and so other
    names. The parameters stay the same objects, in full precision; see checkpoint.tensors_of().
    """
    if level == "O0":
        return net
    if level != "O1":
        return ms.amp.auto_mixed_precision(net, level)
    # MindSpore 2.10's own O1 rewrites the source of the net, which fails for this one.
    for name, cell in net.name_cells().items():
        if isinstance(cell, (nn.Conv2d, nn.Dense)):
            net._cells[name] = InHalf(cell)
        else:
            mixed_precision(cell, level)
    if isinstance(net, nn.SequentialCell):
        net.cell_list = tuple(net.cells())  # what it calls, kept apart from what it has
    return net
