from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import ops

from sknet.loss import CrossEntropy


def reference(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy in double precision, (B,)."""
    wide = logits.astype(np.float64)
    total = np.logaddexp.reduce(wide, axis=1)
    return total - wide[np.arange(len(labels)), labels]


def test_the_loss_equals_a_reference_in_double_precision() -> None:
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((64, 10)) * 5).astype(np.float32)
    labels = rng.integers(0, 10, 64).astype(np.int32)
    loss = CrossEntropy()(ms.Tensor(logits), ms.Tensor(labels)).asnumpy()
    assert loss.shape == (64,)
    assert np.allclose(loss, reference(logits, labels), rtol=1e-5, atol=1e-6)


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
