from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sknet.config import DECAY_MODES, Config
from sknet.schedule import cosine_rates, linear_rates, poly_rates, rates, step_rates

SMOOTH = (poly_rates, cosine_rates, linear_rates)


@st.composite
def curves(draw: st.DrawFn) -> tuple[float, float, float, int, int]:
    """Initial, highest and last rate, steps of warm-up, steps."""
    steps = draw(st.integers(2, 400))
    warmup = draw(st.integers(0, steps - 2))
    peak = draw(st.floats(1e-4, 10))
    return draw(st.floats(0, peak)), peak, draw(st.floats(0, peak)), warmup, steps


def check_rise_and_fall(every: np.ndarray, curve: tuple[float, float, float, int, int]) -> None:
    init, peak, end, warmup, steps = curve
    assert every.shape == (steps,)
    assert every.dtype == np.float32
    assert np.all(np.isfinite(every))
    assert np.all(np.diff(every[: warmup + 1]) >= 0)
    assert np.all(np.diff(every[warmup:]) <= 0)
    assert every.min() >= np.float32(min(init, end))
    assert every.max() == every[warmup] == np.float32(peak)
    assert every[0] == np.float32(init if warmup else peak)


@pytest.mark.parametrize("fall", SMOOTH)
@given(curve=curves())
def test_rates_rise_through_warm_up_then_fall_to_the_end_and_stay_in_bounds(fall, curve) -> None:
    every = fall(*curve)
    check_rise_and_fall(every, curve)
    assert every[-1] == pytest.approx(curve[2], rel=1e-6, abs=1e-7 * curve[1])


@given(curves(), st.data())
def test_rates_in_steps_fall_by_the_factor_at_each_decay_and_never_below_the_end(curve, data: st.DataObject) -> None:
    _, peak, end, warmup, steps = curve
    decays = sorted(data.draw(st.sets(st.integers(warmup + 1, steps - 1), max_size=5)))
    factor = data.draw(st.floats(0.01, 0.99))
    every = step_rates(*curve, decays, factor)
    check_rise_and_fall(every, curve)
    for step in range(warmup, steps):
        wanted = peak * factor ** sum(step >= decay for decay in decays)
        assert every[step] == pytest.approx(max(end, wanted), rel=1e-6)


def test_the_published_schedule_at_its_landmarks() -> None:
    every = rates(Config(), 195)
    assert every.shape == (90 * 195,)
    assert every[0] == np.float32(0.01)
    assert every[5 * 195] == np.float32(0.1)
    halfway = 5 * 195 + (85 * 195 - 1) / 2
    assert every[int(halfway)] == pytest.approx(0.1 / 4, rel=1e-3)  # the square of one half
    assert every[-1] == np.float32(0.00001)


def test_each_shape_at_a_quarter_of_the_way_down() -> None:
    quarter = {fall: float(fall(0.0, 1.0, 0.0, 10, 111)[10 + 25]) for fall in SMOOTH}
    assert quarter[linear_rates] == pytest.approx(0.75)
    assert quarter[poly_rates] == pytest.approx(0.75**2)
    assert quarter[cosine_rates] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_decays_happen_at_the_beginning_of_the_first_step_after_their_epochs() -> None:
    config = Config(lr_decay_mode="steps", lr_decay_epochs="30, 60,80", lr_decay_factor=0.1)
    every = rates(config, 7)
    around = [float(every[epoch * 7 + step]) for epoch in (30, 60, 80) for step in (-1, 0)]
    assert around == pytest.approx([0.1, 0.01, 0.01, 0.001, 0.001, 0.0001])


@pytest.mark.parametrize("mode", DECAY_MODES)
def test_every_schedule_that_can_be_named_has_a_rate_for_every_step(mode: str) -> None:
    config = Config(lr_decay_mode=mode, lr_decay_epochs="40" if mode == "steps" else None)
    every = rates(config, 3)
    assert every.shape == (270,)
    without = rates(dataclasses.replace(config, warmup_epochs=0), 3)
    assert without[0] == np.float32(0.1)


@pytest.mark.parametrize("fall", [*SMOOTH, lambda *curve: step_rates(*curve, [], 0.1)])
@pytest.mark.parametrize("warmup", [-1, 10, 11])
def test_a_warm_up_that_leaves_no_step_is_refused(fall, warmup: int) -> None:
    with pytest.raises(ValueError, match="warmup_steps"):
        fall(0.01, 0.1, 0.0, warmup, 10)
