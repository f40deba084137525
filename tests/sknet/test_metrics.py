"""Scores against counts made the slow way, one picture at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sknet.metrics import Scores, cross_entropy

finite = st.floats(-1000, 1000, width=32)
# Few values, so that ties are common; and what a diverged net says.
coarse = st.sampled_from([-1.0, 0.0, 1.0, math.inf, -math.inf, math.nan])


@st.composite
def batches(draw: st.DrawFn, values: st.SearchStrategy[float]) -> tuple[int, list[tuple[np.ndarray, np.ndarray]]]:
    """Return a class count, and batches of logits (B, K) and labels (B,), some of them a single picture."""
    class_num = draw(st.integers(2, 9))
    made = []
    for size in draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)):
        rows = draw(st.lists(st.lists(values, min_size=class_num, max_size=class_num), min_size=size, max_size=size))
        labels = draw(st.lists(st.integers(0, class_num - 1), min_size=size, max_size=size))
        made.append((np.array(rows, np.float32), np.array(labels, np.int32)))
    return class_num, made


def before(row: np.ndarray, label: int) -> list[int]:
    """Return the classes guessed before the true one: those that it does not clearly beat."""
    return [other for other in range(len(row)) if other != label and not row[other] < row[label]]


def scores_of(class_num: int, made: list[tuple[np.ndarray, np.ndarray]]) -> Scores:
    scores = Scores.none(class_num)
    for logits, labels in made:
        scores = scores.and_of(logits, labels)
    return scores


@given(st.one_of(batches(finite), batches(coarse)))
def test_every_figure_is_what_counting_one_picture_after_the_other_gives(
    drawn: tuple[int, list[tuple[np.ndarray, np.ndarray]]],
) -> None:
    class_num, made = drawn
    pictures = [(row, int(label)) for logits, labels in made for row, label in zip(logits, labels)]
    places = [len(before(row, label)) for row, label in pictures]
    scores = scores_of(class_num, made)
    assert scores.pictures == len(pictures)
    assert scores.top_1_accuracy == sum(place == 0 for place in places) / len(pictures)
    assert scores.top_5_accuracy == sum(place < 5 for place in places) / len(pictures)
    for own in range(class_num):
        mine = [place for place, (_, label) in zip(places, pictures) if label == own]
        assert scores.pictures_of_class[own] == scores.confusion[own].sum() == len(mine)
        assert scores.accuracy_of_class[own] == (sum(place == 0 for place in mine) / len(mine) if mine else None)


@given(batches(finite))
def test_the_confusion_matrix_counts_each_picture_at_its_class_and_its_highest_logit(
    drawn: tuple[int, list[tuple[np.ndarray, np.ndarray]]],
) -> None:
    class_num, made = drawn
    wanted = np.zeros((class_num, class_num), int)
    for logits, labels in made:
        for row, label in zip(logits, labels):
            rivals = before(row, int(label))
            wanted[label, max(rivals, key=lambda other: (row[other], -other)) if rivals else label] += 1
    assert (scores_of(class_num, made).confusion == wanted).all()


@given(batches(finite))
def test_how_pictures_are_cut_into_batches_changes_nothing(
    drawn: tuple[int, list[tuple[np.ndarray, np.ndarray]]],
) -> None:
    class_num, made = drawn
    one = scores_of(class_num, [(np.concatenate([m[0] for m in made]), np.concatenate([m[1] for m in made]))])
    many = scores_of(class_num, made)
    assert (one.confusion == many.confusion).all() and one.first_five == many.first_five
    assert one.loss == pytest.approx(many.loss)


def test_the_loss_is_the_negative_log_of_the_softmax_and_stays_finite_when_logits_are_far_apart() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, -1000.0]], np.float32)
    wanted = [math.log(sum(math.exp(value) for value in (1, 2, 3))) - 1, 2000.0]
    assert cross_entropy(logits, np.array([0, 2])).tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("class_num", [2, 3, 5])
def test_with_five_classes_or_fewer_the_first_five_guesses_are_always_right(class_num: int) -> None:
    scores = Scores.none(class_num).and_of(np.zeros((4, class_num), np.float32), np.zeros(4, np.int32))
    assert (scores.top_1_accuracy, scores.top_5_accuracy) == (0.0, 1.0)


@pytest.mark.parametrize("value", [0.0, math.nan, -math.inf, math.inf])
def test_a_net_that_says_the_same_of_everything_is_never_right(value: float) -> None:
    scores = Scores.none(10).and_of(np.full((2, 10), value, np.float32), np.array([0, 9]))
    assert (scores.top_1_accuracy, scores.top_5_accuracy) == (0.0, 0.0)
    assert scores.confusion.trace() == 0 and scores.pictures == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_says_so(value: float) -> None:
    scores = Scores.none(2).and_of(np.array([[0, value], [0, 1]], np.float32), np.array([0, 1]))
    assert not math.isfinite(scores.loss)


def test_adding_a_batch_leaves_the_scores_before_it_as_they_were() -> None:
    earlier = Scores.none(2)
    earlier.and_of(np.array([[1, 0]], np.float32), np.array([0]))
    assert earlier.confusion.sum() == 0
