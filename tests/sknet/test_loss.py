from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import ops

from sknet.loss import CrossEntropy


def reference(logits: np.ndarray, labels: np.ndarray, smooth: float) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy with smoothed labels and its gradient in double precision, (B,) and (B, K)."""
    wide = logits.astype(np.float64)
    log_softmax = wide - np.logaddexp.reduce(wide, axis=1, keepdims=True)
    target = np.eye(wide.shape[1])[labels] * (1 - smooth) + smooth / wide.shape[1]
    return -(target * log_softmax).sum(axis=1), np.exp(log_softmax) - target


@pytest.mark.parametrize("smooth", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("spread", [5.0, 1e4])
def test_loss_and_gradient_equal_a_reference_in_double_precision(smooth: float, spread: float) -> None:
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((64, 10)) * spread).astype(np.float32)
    labels = rng.integers(0, 10, 64).astype(np.int32)
    entropy = CrossEntropy(smooth)
    loss = entropy(ms.Tensor(logits), ms.Tensor(labels)).asnumpy()
    gradient = ops.grad(lambda x, y: entropy(x, y).sum())(ms.Tensor(logits), ms.Tensor(labels)).asnumpy()
    wanted_loss, wanted_gradient = reference(logits, labels, smooth)
    assert loss.shape == (64,)
    assert np.allclose(loss, wanted_loss, rtol=1e-5, atol=1e-6 * spread)
    assert np.allclose(gradient, wanted_gradient, atol=1e-5)


def test_smoothing_makes_the_least_loss_that_of_a_net_that_doubts() -> None:
    sure, doubting = (
        np.array([[50.0, 0, 0]], np.float32),
        np.log(np.array([[0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3]], np.float32)),
    )
    losses = [
        float(CrossEntropy(0.1)(ms.Tensor(logits), ms.Tensor([0], ms.int32)).asnumpy()[0])
        for logits in (sure, doubting)
    ]
    assert losses[1] < losses[0]


def test_loss_and_gradient_stay_finite_however_far_apart_the_logits_are() -> None:
    logits = np.array([[0, 1000, -1000], [1e30, 0, -1e30], [-88, 88, 0]], np.float32)
    labels = np.array([2, 2, 0], np.int32)
    loss, gradient = ops.value_and_grad(lambda x, y: CrossEntropy()(x, y).sum())(ms.Tensor(logits), ms.Tensor(labels))
    assert np.isclose(loss.asnumpy(), 2000 + 2e30 + 176)
    softmax = np.array([[0, 1, 0], [1, 0, 0], [0, 1, 0]])
    assert np.allclose(gradient.asnumpy(), softmax - np.eye(3)[labels], atol=1e-6)


def test_half_precision_logits_give_a_single_precision_loss() -> None:
    loss = CrossEntropy()(ms.Tensor(np.array([[60000, -60000]], np.float16)), ms.Tensor(np.array([1], np.int32)))
    assert loss.dtype == ms.float32
    assert np.isclose(loss.asnumpy()[0], 120_000, rtol=1e-3)
