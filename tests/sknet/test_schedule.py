from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sknet.config import Config
from sknet.schedule import poly_rates, rates


@given(st.data())
def test_rates_rise_through_warm_up_then_fall_to_the_end_and_stay_in_bounds(data: st.DataObject) -> None:
    steps = data.draw(st.integers(2, 400))
    warmup = data.draw(st.integers(0, steps - 2))
    peak = data.draw(st.floats(1e-4, 10))
    init, end = data.draw(st.floats(0, peak)), data.draw(st.floats(0, peak))
    every = poly_rates(init, peak, end, warmup, steps)
    assert every.shape == (steps,)
    assert every.dtype == np.float32
    assert np.all(np.diff(every[: warmup + 1]) >= 0)
    assert np.all(np.diff(every[warmup:]) <= 0)
    assert every.max() == every[warmup] == np.float32(peak)
    assert every[0] == np.float32(init if warmup else peak)
    assert every[-1] == np.float32(end)


def test_the_published_schedule_at_its_landmarks() -> None:
    every = rates(Config(), 195)
    assert every.shape == (90 * 195,)
    assert every[0] == np.float32(0.01)
    assert every[5 * 195] == np.float32(0.1)
    halfway = 5 * 195 + (85 * 195 - 1) / 2
    assert every[int(halfway)] == pytest.approx(0.1 / 4, rel=1e-3)  # the square of one half
    assert every[-1] == np.float32(0.00001)


def test_training_after_earlier_epochs_takes_up_the_schedule_where_they_left_it() -> None:
    whole = rates(Config(), 10)
    rest = rates(Config(pretrain_epoch_size=30, pre_trained="x.ckpt"), 10)
    assert np.array_equal(rest, whole[300:])


@pytest.mark.parametrize("warmup", [-1, 10, 11])
def test_a_warm_up_that_leaves_no_step_is_refused(warmup: int) -> None:
    with pytest.raises(ValueError, match="warmup_steps"):
        poly_rates(0.01, 0.1, 0.0, warmup, 10)
