"""The net, its loss and its optimiser against the same in PyTorch; see torch_reference.py.

How far two tensors are apart is their largest absolute difference, divided by the reference's largest absolute value
where that is above 1. Where both sides compute in single precision, the gradient of a ReLU or of a maximum differs
outright as soon as rounding moves one value over the edge. So batch norms are shifted by three to four deviations:
their channels are nearly all on or nearly all off, many values still cross the edge, but hardly one comes too near it.
The head is small, so that gradients are below 1; that this does not make their comparison empty is seen from the
direction: the cosine of the angle between the two, for every tensor whose gradient is not 0 but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import nn, ops
from torch.nn import functional as F

from sknet.loss import CrossEntropy
from sknet.model import build
from sknet.step import TrainStep, momentum_optimizer
from tests.sknet.torch_reference import Reference, our_name

OUTPUTS = 1e-4  # measured: 2e-5 (SKNet50, 32 pixels, training), 1e-6 in evaluation
GRADIENTS = 1e-3  # measured: 1e-4 (SKNet50, 224 pixels, training), 4e-5 on 32 pixels, 7e-6 for the toy
COSINE = 0.999  # measured: 0.999997
BN_MOMENTUM = 0.7


def distance(own: np.ndarray, reference: np.ndarray) -> float:
    assert own.shape == reference.shape
    return float(np.abs(own - reference).max() / max(1.0, np.abs(reference).max()))


def cosine(own: np.ndarray, reference: np.ndarray) -> float:
    a, b = own.ravel().astype(np.float64), reference.ravel().astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@dataclass(frozen=True)
class Twins:
    """A net, its reference with the same weights, and a batch: pictures (B, 3, S, S), labels (B,)."""

    net: nn.Cell
    reference: Reference
    pictures: np.ndarray
    labels: np.ndarray

    @classmethod
    def make(cls, name: str, side: int, batch: int, groups: str = "native") -> Twins:
        rng = np.random.default_rng(5)
        net = build(name, 10, bn_momentum=BN_MOMENTUM, group_convolution=groups)
        randomise(net, rng)
        tensors = {place: parameter.asnumpy() for place, parameter in net.parameters_and_names()}
        pictures = rng.standard_normal((batch, 3, side, side)).astype(np.float32)
        return cls(net, Reference(name, tensors, BN_MOMENTUM), pictures, np.arange(batch, dtype=np.int32) % 10)

    def pairs(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Name, own value and reference of every tensor."""
        for name, parameter in self.net.parameters_and_names():
            yield name, parameter.asnumpy(), self.reference.weights[our_name(name)].detach().numpy()


def randomise(net: nn.Cell, rng: np.random.Generator) -> None:
    """Leave nothing at 0 or 1 but keep the net well conditioned: residuals are small beside their shortcuts."""
    for name, parameter in net.parameters_and_names():
        cell, _, kind = name.rpartition(".")
        if kind == "gamma":
            value = scale = rng.uniform(0.8, 1.2, parameter.shape) * (0.3 if ".expand." in cell else 1.0)
        elif kind == "beta":
            signs = 1.0 if ".expand." in cell else rng.choice([-1.0, 1.0], parameter.shape)
            value = signs * scale * rng.uniform(3, 4, parameter.shape)
        elif kind == "moving_variance":
            value = rng.uniform(0.5, 2, parameter.shape)
        elif kind == "moving_mean" or kind == "bias":
            value = rng.standard_normal(parameter.shape) * 0.2
        else:
            value = parameter.asnumpy() * rng.uniform(0.5, 1.5, parameter.shape) * (0.3 if cell == "head" else 1.0)
        parameter.set_data(ms.Tensor(value.astype(np.float32)))


class LossAndLogits(nn.Cell):
    """Pictures (B, 3, S, S), labels (B,) -> mean loss (), logits (B, classes)."""

    def __init__(self, net: nn.Cell) -> None:
        super().__init__()
        self.net = net
        self.loss = CrossEntropy()

    def construct(self, pictures, labels):
        logits = self.net(pictures)
        return self.loss(logits, labels).mean(), logits


def check_agreement(twins: Twins, training: bool) -> None:
    """Compare logits, loss, the gradients of all parameters, and the statistics that the batch left behind."""
    twins.net.set_train(training)
    weights = twins.net.trainable_params()
    places = [name for name, parameter in twins.net.parameters_and_names() if parameter.requires_grad]
    differentiate = ops.value_and_grad(LossAndLogits(twins.net), None, ms.ParameterTuple(weights), has_aux=True)
    (loss, logits), gradients = differentiate(ms.Tensor(twins.pictures), ms.Tensor(twins.labels))

    expected = twins.reference.logits(twins.pictures, training)
    expected_loss = F.cross_entropy(expected, torch.from_numpy(twins.labels).long())
    expected_loss.backward()
    own = {our_name(place): gradient.asnumpy() for place, gradient in zip(places, gradients, strict=True)}
    other = {name: leaf.grad.numpy() for name, leaf in twins.reference.leaves().items()}
    assert own.keys() == other.keys()
    apart = {name: distance(own[name], other[name]) for name in own}
    alike = {name: cosine(own[name], other[name]) for name in own if np.abs(other[name]).max() > 1e-4}
    statistics = {name: distance(mine, theirs) for name, mine, theirs in twins.pairs() if ".moving_" in name}
    print(
        f"logits {distance(logits.asnumpy(), expected.detach().numpy()):.1e} apart, "
        f"loss {abs(float(loss.asnumpy()) - expected_loss.item()):.1e}, "
        f"gradients {max(apart.values()):.1e} with a cosine of {min(alike.values()):.7f} ({len(alike)} of {len(own)}), "
        f"statistics {max(statistics.values()):.1e}"
    )
    assert distance(logits.asnumpy(), expected.detach().numpy()) < OUTPUTS
    assert float(loss.asnumpy()) == pytest.approx(expected_loss.item(), abs=OUTPUTS)
    assert {name: value for name, value in apart.items() if not value < GRADIENTS} == {}
    assert {name: value for name, value in alike.items() if not value > COSINE} == {}
    assert {name: value for name, value in statistics.items() if not value < OUTPUTS} == {}


TRAINING, EVALUATION = pytest.param(True, id="training"), pytest.param(False, id="evaluation")


@pytest.mark.parametrize("training", [TRAINING, EVALUATION])
@pytest.mark.parametrize("side", [32, 35, 224])  # 35: an odd number of pixels before the pooling
def test_a_compiled_toy_agrees_with_the_reference(side: int, training: bool, graph_mode: None) -> None:
    check_agreement(Twins.make("sknet_tiny", side, batch=4), training)


@pytest.mark.parametrize("training", [TRAINING, EVALUATION])
def test_convolutions_split_into_their_groups_agree_with_the_reference(training: bool, graph_mode: None) -> None:
    check_agreement(Twins.make("sknet_tiny", side=32, batch=4, groups="split"), training)


@pytest.mark.parametrize(("net", "training"), [("sknet50", True), ("sknet26", False)])
def test_compiled_nets_agree_with_the_reference_on_32_pixels(net: str, training: bool, graph_mode: None) -> None:
    check_agreement(Twins.make(net, side=32, batch=8), training)


@pytest.mark.parametrize(("net", "training"), [("sknet50", True), ("sknet26", False)])
def test_nets_agree_with_the_reference_on_224_pixels(net: str, training: bool) -> None:
    check_agreement(Twins.make(net, side=224, batch=2), training)


def test_sknet101_has_the_outputs_of_the_reference() -> None:
    twins = Twins.make("sknet101", 64, 2)
    twins.net.set_train(False)
    logits = twins.net(ms.Tensor(twins.pictures)).asnumpy()
    expected = twins.reference.logits(twins.pictures, training=False).detach().numpy()
    assert distance(logits, expected) < OUTPUTS


def test_label_smoothing_is_torch_s() -> None:
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((32, 10)) * 5).astype(np.float32)
    labels = rng.integers(0, 10, 32).astype(np.int32)
    own = CrossEntropy(0.1)(ms.Tensor(logits), ms.Tensor(labels)).asnumpy()
    expected = F.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(labels).long(), reduction="none", label_smoothing=0.1
    )
    assert np.allclose(own, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_whole_steps_lead_to_the_weights_of_torch_s_sgd(graph_mode: None) -> None:
    twins = Twins.make("sknet_tiny", 32, 8)
    decay, momentum = 0.01, 0.9
    step = TrainStep(twins.net, momentum_optimizer(twins.net, momentum, decay), 1024.0, 1, packed=True)
    step.set_train()
    leaves = twins.reference.leaves()
    groups = [
        {"params": [leaf for name, leaf in leaves.items() if name.endswith(".weight")], "weight_decay": decay},
        {"params": [leaf for name, leaf in leaves.items() if not name.endswith(".weight")], "weight_decay": 0.0},
    ]
    sgd = torch.optim.SGD(groups, lr=1.0, momentum=momentum)
    before = {name: own.copy() for name, own, _ in twins.pairs()}
    for rate in (0.05, 0.1, 0.02, 0.01):
        loss = step(ms.Tensor(twins.pictures), ms.Tensor(twins.labels), ms.Tensor(rate, ms.float32))
        for group in sgd.param_groups:
            group["lr"] = rate
        sgd.zero_grad()
        logits = twins.reference.logits(twins.pictures, training=True)
        expected = F.cross_entropy(logits, torch.from_numpy(twins.labels).long())
        expected.backward()
        sgd.step()
        assert float(loss.asnumpy()) == pytest.approx(expected.item(), abs=OUTPUTS)
    assert {name for name, own, other in twins.pairs() if not distance(own, other) < OUTPUTS} == set()
    assert max(distance(own, before[name]) for name, own, _ in twins.pairs()) > 0.01, "they must have gone somewhere"
