from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from sknet.checkpoint import tensors_of
from sknet.model import build
from sknet.step import TrainStep, mixed_precision, momentum_optimizer


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


def both(net: nn.Cell) -> tuple[nn.Cell, nn.Cell]:
    return net, momentum_optimizer(net, 0.9, 0.0)


def scaled_step(first: float, window: int) -> TrainStep:
    net = Linear()
    return TrainStep(net, momentum_optimizer(net, 0.9, 0.0), first, 1, packed=True, scale_window=window)


def pictures_of(value: float) -> ms.Tensor:
    """One picture; both classes are equally likely, so its gradient is half of *value* times the loss scale."""
    return ms.Tensor(np.full((1, 3), value, np.float32))


def test_a_dynamic_loss_scale_halves_and_skips_on_overflow_and_doubles_after_good_steps() -> None:
    step = scaled_step(2.0**20, window=3)
    labels, still, course = ms.Tensor([0], ms.int32), ms.Tensor(0.0, ms.float32), []
    for _ in range(7):
        before = step.optimizer.moments[0].asnumpy().copy()
        loss = step(pictures_of(2.0**110), labels, still).asnumpy()  # overflows from a scale of 2 ** 19 on
        assert loss == pytest.approx(np.log(2))
        updated = not np.array_equal(before, step.optimizer.moments[0].asnumpy())
        course.append((float(step.scaling.value.asnumpy()), int(step.scaling.skipped.asnumpy()), updated))
    assert course == [
        (2.0**19, 1, False), (2.0**18, 2, False),
        (2.0**18, 2, True), (2.0**18, 2, True), (2.0**19, 2, True),
        (2.0**18, 3, False), (2.0**18, 3, True),
    ]  # fmt: skip
    assert np.all(np.isfinite(step.optimizer.moments[0].asnumpy()))


def test_a_dynamic_loss_scale_stays_between_1_and_its_greatest() -> None:
    step = scaled_step(2.0**24, window=1)
    labels, still = ms.Tensor([0], ms.int32), ms.Tensor(0.0, ms.float32)
    step(pictures_of(1.0), labels, still)
    assert step.scaling.value.asnumpy() == 2.0**24
    for _ in range(26):
        step(pictures_of(np.inf), labels, still)
    assert step.scaling.value.asnumpy() == 1.0


def test_what_a_dynamic_scale_trains_is_what_a_fixed_one_does() -> None:
    weights = []
    for window in (None, 2):
        net = Linear()
        step = TrainStep(net, momentum_optimizer(net, 0.9, 0.1), 1024.0, 1, packed=True, scale_window=window)
        x, labels = ms.Tensor(np.array([[1, 2, 3], [0, -1, 1]], np.float32)), ms.Tensor([0, 1], ms.int32)
        for _ in range(5):
            step(x, labels, ms.Tensor(0.1, ms.float32))
        weights.append(net.dense.weight.asnumpy())
    assert np.allclose(weights[0], weights[1], rtol=1e-6)


@pytest.mark.parametrize("level", ["O1", "O2", "O3"])
def test_every_level_of_mixed_precision_trains_alike_and_keeps_its_weights_in_full(level: str) -> None:
    losses = {}
    for amp_level in ("O0", level):
        net = build("sknet_tiny", 10)
        tensors = tensors_of(net)
        network = mixed_precision(net, amp_level)
        scale = 1.0 if amp_level == "O0" else 1024.0
        step = TrainStep(network, momentum_optimizer(network, 0.9, 1e-4), scale, 1, packed=True)
        step.set_train()
        images, labels = batch()
        losses[amp_level] = [float(step(images, labels, ms.Tensor(0.1, ms.float32)).asnumpy()) for _ in range(6)]
        assert {tensor.dtype for tensor in tensors.values()} == {ms.float32}
        network.set_train(False)
        assert network(images).dtype == ms.float32
    assert losses[level][-1] < losses[level][0]
    assert losses[level] == pytest.approx(losses["O0"], rel=0.05)
    assert losses[level] != losses["O0"]


def test_under_o1_convolutions_and_the_head_compute_in_half_and_all_else_in_full() -> None:
    seen: dict[str, set] = {}

    def spy(name: str):
        def hook(_cell, inputs, output):
            seen.setdefault(name, set()).update((inputs[0].dtype, output.dtype))

        return hook

    net = mixed_precision(build("sknet_tiny", 10), "O1")
    for _, cell in net.cells_and_names():
        if isinstance(cell, (nn.Conv2d, nn.Dense, nn.BatchNorm2d, nn.ReLU)):
            cell.register_forward_hook(spy(type(cell).__name__))
    net(batch()[0])
    assert seen["BatchNorm2d"] == seen["ReLU"] == {ms.float32}
    assert seen["Dense"] == {ms.float32, ms.float16}  # takes full, gives half, which its cell converts back


def test_the_state_names_a_momentum_buffer_for_each_weight_by_its_place_in_the_net() -> None:
    net = build("sknet_tiny", 10)
    tensors = tensors_of(net)
    network = mixed_precision(net, "O2")
    step = TrainStep(network, momentum_optimizer(network, 0.9, 1e-4), 1024.0, 1, packed=True, scale_window=5)
    state = step.state(tensors)
    trained = [name for name, tensor in tensors.items() if tensor.requires_grad]
    assert set(state) == {f"moment.{name}" for name in trained} | {
        f"loss_scale.{part}" for part in ("value", "good", "skipped")
    }
    assert all(state[f"moment.{name}"].shape == tensors[name].shape for name in trained)


@pytest.mark.parametrize("mode", [ms.PYNATIVE_MODE, ms.GRAPH_MODE])
def test_a_batch_in_parts_gives_the_loss_and_the_weights_of_the_whole(graph_mode: None, mode: int) -> None:
    ms.set_context(mode=mode)
    images, labels = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32), np.arange(6) % 2
    ends = []
    for parts, window in ((1, None), (2, None), (3, None), (3, 5)):
        net = Linear()
        step = TrainStep(net, momentum_optimizer(net, 0.9, 0.1), 8.0, 1, packed=True, scale_window=window, parts=parts)
        for _ in range(3):
            loss = step(ms.Tensor(images), ms.Tensor(labels, ms.int32), ms.Tensor(0.5, ms.float32))
        ends.append(np.append(net.dense.weight.asnumpy(), loss.asnumpy()))
    assert all(np.allclose(end, ends[0], rtol=1e-5) for end in ends[1:])


@pytest.mark.parametrize("mode", [ms.PYNATIVE_MODE, ms.GRAPH_MODE])
@pytest.mark.parametrize("window", [None, 5])
def test_one_rank_that_is_asked_to_end_knows_at_once_and_its_steps_are_the_same(
    graph_mode: None, mode: int, window: int | None
) -> None:
    ms.set_context(mode=mode)
    step = scaled_step(8.0, window) if window else TrainStep(*both(Linear()), 8.0, 1, packed=True)
    still = ms.Tensor(0.0, ms.float32)
    first = step(pictures_of(1.0), ms.Tensor([0], ms.int32), still).asnumpy()
    assert not step.end_agreed
    step.ask_to_end()
    assert step.end_agreed
    assert step(pictures_of(1.0), ms.Tensor([0], ms.int32), still).asnumpy() == first
    assert step.end_agreed
    assert not any("asked" in name or "agreed" in name for name in step.state(tensors_of(step.forward.net)))
