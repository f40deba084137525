"""The loss: cross-entropy that stays finite however far apart the logits are."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops


class CrossEntropy(nn.Cell):
    """Softmax cross-entropy, per picture. Logits (B, K) of any float type, labels (B,) int32 -> float32 (B,).

    log(softmax) is computed in one piece, as x - max(x) - log(sum(exp(x - max(x)))). Taking the logarithm of a
    finished softmax, as nn.SoftmaxCrossEntropyWithLogits does on CPU, gives inf once logits differ by about 88.

    With label smoothing e the target is 1 - e of the label and e spread evenly over all K classes, so that the loss is
    (1 - e) * H(label) + e * H(uniform). Source: Szegedy et al., arXiv:1512.00567, section 7.
    """

    def __init__(self, label_smooth_factor: float = 0.0) -> None:
        super().__init__()
        self.smooth = label_smooth_factor

    def construct(self, logits, labels):
        logits = logits.astype(ms.float32)  # half precision cannot hold the sum
        shifted = logits - ops.stop_gradient(logits.max(axis=1, keepdims=True))  # (B, K), at most 0
        log_total = ops.log(ops.exp(shifted).sum(axis=1))  # (B,), between 0 and log(K)
        target = ops.gather_elements(shifted, 1, labels.expand_dims(1)).squeeze(1)  # (B,)
        if self.smooth > 0.0:
            target = (1.0 - self.smooth) * target + self.smooth * shifted.mean(axis=1)
        return log_total - target
