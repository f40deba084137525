from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from sknet.model import build
from sknet.step import TrainStep, momentum_optimizer


def batch() -> tuple[ms.Tensor, ms.Tensor]:
    rng = np.random.default_rng(0)
    return ms.Tensor(rng.standard_normal((8, 3, 32, 32)).astype(np.float32)), ms.Tensor(np.arange(8, dtype=np.int32))


def test_a_step_updates_weights_and_batch_statistics_and_evaluation_neither() -> None:
    net = build("sknet_tiny", 10)
    step = TrainStep(net, momentum_optimizer(net, 0.9, 1e-4), 1024.0, 1, packed=True)
    step.set_train()
    before = {name: parameter.asnumpy().copy() for name, parameter in net.parameters_and_names()}
    images, labels = batch()
    losses = [float(step(images, labels, ms.Tensor(0.1, ms.float32)).asnumpy()) for _ in range(4)]
    assert losses[-1] < losses[0]
    after = {name: parameter.asnumpy().copy() for name, parameter in net.parameters_and_names()}
    for name in ("stem.0.weight", "stem.1.moving_mean", "stem.1.moving_variance", "head.bias"):
        assert not np.array_equal(before[name], after[name])
    net.set_train(False)
    net(images)
    assert all(np.array_equal(after[name], parameter.asnumpy()) for name, parameter in net.parameters_and_names())


class Linear(nn.Cell):
    """Three inputs, two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Dense(3, 2, weight_init=ms.Tensor(np.ones((2, 3), np.float32)), bias_init="ones")

    def construct(self, x):
        return self.dense(x)


@pytest.mark.parametrize("loss_scale", [1.0, 1024.0])
def test_momentum_and_weight_decay_follow_their_formula_whatever_the_loss_scale(loss_scale: float) -> None:
    net = Linear()
    rates, momentum, decay = (0.5, 0.25, 0.125), 0.9, 0.1
    step = TrainStep(net, momentum_optimizer(net, momentum, decay), loss_scale, 1, packed=True)
    x, labels = np.array([[1, 2, 3], [0, -1, 1]], np.float32), np.array([0, 1], np.int32)
    weight, bias = np.ones((2, 3)), np.ones(2)
    velocity = [np.zeros((2, 3)), np.zeros(2)]
    for rate in rates:
        logits = x @ weight.T + bias
        softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        error = (softmax - np.eye(2)[labels]) / 2  # (B, K), of the mean loss
        velocity = [momentum * velocity[0] + error.T @ x + decay * weight, momentum * velocity[1] + error.sum(axis=0)]
        weight, bias = weight - rate * velocity[0], bias - rate * velocity[1]
        step(ms.Tensor(x), ms.Tensor(labels), ms.Tensor(rate, ms.float32))
    assert np.allclose(net.dense.weight.asnumpy(), weight, atol=1e-5)
    assert np.allclose(net.dense.bias.asnumpy(), bias, atol=1e-5)
