"""What a net scored, counted over batches: NumPy alone, no framework and no files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FIRST = 5  # guesses that top-5 accuracy looks at


@dataclass(frozen=True, eq=False)
class Scores:
    """What a net of K classes said of the pictures so far. `Scores.none(K).and_of(logits, labels)` counts a batch.

    A class whose logit equals that of the true class, or is no number, counts as guessed before it: a net that says
    the same of everything, or nothing at all, must not look right.
    """

    confusion: np.ndarray  # (K, K) int64: pictures by true class (row) and by first guess (column)
    first_five: int  # pictures whose class was among the first five guesses
    loss_sum: float  # cross-entropy over all pictures; not finite once one of them is

    @classmethod
    def none(cls, class_num: int) -> Scores:
        """Return the scores of no picture."""
        return cls(np.zeros((class_num, class_num), np.int64), 0, 0.0)

    def and_of(self, logits: np.ndarray, labels: np.ndarray) -> Scores:
        """Return these scores with those of one more batch: logits (B, K), true classes (B,) below K."""
        before = classes_before(logits, labels)
        guesses = np.where(before == 0, labels, first_rival(logits, labels))
        confusion = self.confusion.copy()
        np.add.at(confusion, (labels, guesses), 1)
        return Scores(
            confusion,
            self.first_five + int((before < FIRST).sum()),
            self.loss_sum + float(cross_entropy(logits, labels).sum()),
        )

    @property
    def pictures(self) -> int:
        return int(self.confusion.sum())

    @property
    def top_1_accuracy(self) -> float:
        """Share of the pictures whose class was the first guess, in 0..1."""
        return float(self.confusion.trace()) / self.pictures

    @property
    def top_5_accuracy(self) -> float:
        """Share of the pictures whose class was among the first five guesses: 1.0 where there are no more classes."""
        return self.first_five / self.pictures

    @property
    def loss(self) -> float:
        """Mean cross-entropy over the pictures, in nats."""
        return self.loss_sum / self.pictures

    @property
    def pictures_of_class(self) -> list[int]:
        """Number of pictures of each class, (K,)."""
        return [int(count) for count in self.confusion.sum(axis=1)]

    @property
    def accuracy_of_class(self) -> list[float | None]:
        """Share of each class's pictures that were guessed right (its recall), (K,); None for a class without any."""
        right = self.confusion.diagonal().tolist()
        return [own / count if count else None for own, count in zip(right, self.pictures_of_class)]


def classes_before(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return how many classes are guessed before the true one, (B,) int: 0 is a right first guess."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)  # (B, 1)
    before: np.ndarray = (~(logits < own)).sum(axis=1) - 1
    return before


def first_rival(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the class with the highest logit but for the true one, (B,) int; the first of several."""
    count, class_num = logits.shape
    rivals = logits[np.arange(class_num) != labels[:, None]].reshape(count, class_num - 1)
    place = rivals.argmax(axis=1)
    rival: np.ndarray = place + (place >= labels)
    return rival


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return -log softmax of the true class, (B,) float64; finite however far apart finite logits are."""
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf: what is no number comes out as none
        shifted = wide - wide.max(axis=1, keepdims=True)
    losses: np.ndarray = np.log(np.exp(shifted).sum(axis=1)) - np.take_along_axis(shifted, labels[:, None], 1)[:, 0]
    return losses
