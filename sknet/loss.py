"""The loss: cross-entropy that stays finite however far apart the logits are."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops


class CrossEntropy(nn.Cell):
    """Softmax cross-entropy, per picture. Logits (B, K) of any float type, labels (B,) int32 -> float32 (B,).

    log(softmax) is computed in one piece, as x - max(x) - log(sum(exp(x - max(x)))). Taking the logarithm of a
    finished softmax, as nn.SoftmaxCrossEntropyWithLogits does on CPU, gives inf once logits differ by about 88.
    """

    def construct(self, logits, labels):
        logits = logits.astype(ms.float32)  # half precision cannot hold the sum
        shifted = logits - ops.stop_gradient(logits.max(axis=1, keepdims=True))  # (B, K), at most 0
        log_total = ops.log(ops.exp(shifted).sum(axis=1))  # (B,), between 0 and log(K)
        return log_total - ops.gather_elements(shifted, 1, labels.expand_dims(1)).squeeze(1)
