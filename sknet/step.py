"""One training step as one compiled graph: loss, gradients, their mean over the ranks, and the update."""

from __future__ import annotations

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


@times.register("Number", "Tensor")
def _(factor, gradient):
    return gradient * factor


@flatten.register("Tensor")
def _(gradient):
    return gradient.reshape((-1,))


@cut.register("Tensor", "Number", "Tensor")
def _(packed, start, gradient):
    return ops.slice(packed, (start,), (gradient.size,)).reshape(gradient.shape)


class ScaledLoss(nn.Cell):
    """Mean loss of a batch times a factor: what is differentiated. (B, 3, S, S), (B,) -> ()."""

    def __init__(self, net: nn.Cell, scale: float) -> None:
        super().__init__()
        self.net = net
        self.loss = CrossEntropy()
        self.scale = scale

    def construct(self, pictures, labels):
        return self.loss(self.net(pictures), labels).mean() * self.scale


class OneRank(nn.Cell):
    """Only takes the loss scale out again: there is nobody to share with."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def construct(self, loss, gradients):
        return loss * self.factor, each(ops.partial(times, self.factor), gradients)


class PackedMean(nn.Cell):
    """Mean over all ranks by one all-reduce of one flat buffer, which holds the loss as well.

    For backends that do not fuse collectives themselves: on CPU an all-reduce costs a round trip per tensor.
    """

    def __init__(self, sizes: list[int], factor: float) -> None:
        super().__init__()
        self.starts = tuple(np.cumsum([0, *sizes[:-1]]).tolist())
        self.total = sum(sizes)
        self.factor = factor
        self.all_reduce = ops.AllReduce()

    def construct(self, loss, gradients):
        flat = each(flatten, gradients)
        packed = self.all_reduce(ops.concat((*flat, loss.reshape((1,))))) * self.factor  # (all weights + 1,)
        return packed[self.total], each(ops.partial(cut, packed), self.starts, gradients)


class FusedMean(nn.Cell):
    """Mean over all ranks by the backend's own fused all-reduces, which run beside the backward pass."""

    def __init__(self, parameters: ms.ParameterTuple, ranks: int, factor: float) -> None:
        super().__init__()
        self.reduce = nn.DistributedGradReducer(parameters, mean=False, degree=ranks)
        self.all_reduce = ops.AllReduce()
        self.factor = factor

    def construct(self, loss, gradients):
        return self.all_reduce(loss) * self.factor, each(ops.partial(times, self.factor), self.reduce(gradients))


class TrainStep(nn.Cell):
    """Pictures (B, 3, S, S), labels (B,) of this rank, rate () -> loss (), the mean over all ranks. Updates the net.

    The learning rate is an input: a list of rates in the graph would come back out of a compile cache, see cache.py.
    The gradients leave *mean* unscaled, so momentum and weight decay never meet the loss scale.
    """

    def __init__(self, net: nn.Cell, optimizer: nn.Optimizer, loss_scale: float, ranks: int, packed: bool) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.weights = ms.ParameterTuple(optimizer.parameters)
        self.forward = ScaledLoss(net, loss_scale)  # a cell of ours, so that set_train reaches the net
        self.differentiate = ops.value_and_grad(self.forward, None, self.weights)
        factor = 1.0 / (loss_scale * ranks)
        if ranks == 1:
            self.mean: nn.Cell = OneRank(factor)
        elif packed:
            self.mean = PackedMean([weight.size for weight in self.weights], factor)
        else:
            self.mean = FusedMean(self.weights, ranks, factor)

    def construct(self, pictures, labels, rate):
        ops.assign(self.optimizer.learning_rate, rate)
        loss, gradients = self.differentiate(pictures, labels)
        loss, gradients = self.mean(loss, gradients)
        return ops.depend(loss, self.optimizer(gradients))


def momentum_optimizer(net: nn.Cell, momentum: float, weight_decay: float) -> nn.Momentum:
    """Return SGD with momentum; biases and batch norm do not decay. TrainStep sets its rate."""
    weights, others = decayed(net)
    groups = [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return nn.Momentum(groups, 0.0, momentum)


def mixed_precision(net: nn.Cell, level: str) -> nn.Cell:
    """Return the net with its parts cast to half precision as *level* O0, O2 or O3 says.

    This changes the net itself: batch norms get a cell around them that keeps them in full precision, and so other
    names. The parameters stay the same objects; see checkpoint.tensors_of().
    """
    return net if level == "O0" else ms.amp.auto_mixed_precision(net, level)
