from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from mindspore import nn

from sknet.dataset import RECORD, Pictures
from sknet.eval import evaluate, score


class Guess(nn.Cell):
    """Gives every picture the same logits: class 3 first, then 4, 5, 6, 7, the others last."""

    def construct(self, pictures):
        return pictures[:, 0, :1, 0] * 0 + self.logits

    def __init__(self) -> None:
        super().__init__()
        import mindspore as ms

        self.logits = ms.Tensor(np.array([[-9, -9, -9, 5, 4, 3, 2, 1, -9, -9]], np.float32))


def test_accuracy_counts_the_first_guess_and_the_first_five_over_every_picture() -> None:
    labels = [3] * 10 + [7] * 4 + [0] * 9  # 23 pictures, in batches of 5 the last is partial
    file = np.frombuffer(b"".join(bytes([label]) + bytes(3072) for label in labels), np.uint8).reshape(-1, RECORD)
    result = evaluate(Guess(), Pictures((Path("test.bin"),), (file,), np.array([23])), 32, 5)
    assert result.pictures == 23
    assert result.top_1_accuracy == 10 / 23
    assert result.top_5_accuracy == 14 / 23


@given(arrays.arrays(np.float32, (6, 8), elements=st.floats(-50, 50, width=32), unique=True))
def test_a_label_ranks_after_the_classes_with_larger_logits(logits: np.ndarray) -> None:
    labels = np.arange(6)
    ranks, losses = score(logits, labels)
    order = np.argsort(-logits, axis=1)
    assert ranks.tolist() == [order[row].tolist().index(row) for row in labels]
    wide = logits.astype(np.float64)
    assert np.allclose(losses, np.logaddexp.reduce(wide, axis=1) - wide[labels, labels], atol=1e-4)


def test_a_net_that_says_the_same_of_everything_is_never_right() -> None:
    for value in (0.0, np.nan):
        ranks, _ = score(np.full((2, 10), value, np.float32), np.array([0, 9]))
        assert (ranks >= 5).all()
