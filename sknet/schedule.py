"""The learning rate of every step, as plain numbers.

Each schedule rises linearly from `init` at step 0 towards `peak` at step `warmup_steps`, as Goyal et al. do
(arXiv:1706.02677, section 2.2), and then falls. With p the share of the steps after warm-up that are done, 0 at the
peak and 1 at the last step:

    poly     end + (peak - end) * (1 - p) ** 2               mindspore-ai/models, research/cv/sknet; it ends at 0
    cosine   end + (peak - end) * (1 + cos(pi * p)) / 2      SGDR, arXiv:1608.03983, equation 5, no restart
    linear   end + (peak - end) * (1 - p)
    steps    max(end, peak * factor ** k), k decays so far   He et al., arXiv:1512.03385, section 3.4

All return float32 of shape (steps,), one rate per optimiser step, and raise ValueError unless
0 <= warmup_steps < steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sknet.config import Config

POWER = 2.0  # of the polynomial; published recipe


def poly_rates(init: float, peak: float, end: float, warmup_steps: int, steps: int) -> np.ndarray:
    """Return rates that fall as a polynomial, fast at first and ever slower."""
    return warmed_up(init, peak, end + (peak - end) * (1.0 - done(warmup_steps, steps)) ** POWER, warmup_steps)


def cosine_rates(init: float, peak: float, end: float, warmup_steps: int, steps: int) -> np.ndarray:
    """Return rates that fall along half a cosine."""
    return warmed_up(
        init, peak, end + (peak - end) * (1.0 + np.cos(np.pi * done(warmup_steps, steps))) / 2.0, warmup_steps
    )


def linear_rates(init: float, peak: float, end: float, warmup_steps: int, steps: int) -> np.ndarray:
    """Return rates that fall along a line."""
    return warmed_up(init, peak, end + (peak - end) * (1.0 - done(warmup_steps, steps)), warmup_steps)


def step_rates(
    init: float, peak: float, end: float, warmup_steps: int, steps: int, decays: Sequence[int], factor: float
) -> np.ndarray:
    """Return rates that are multiplied by *factor* at each step of *decays*, but never fall below *end*."""
    falling = warmup_steps + np.arange(len(done(warmup_steps, steps)))
    decayed = np.searchsorted(decays, falling, side="right")  # how often, at each step
    return warmed_up(init, peak, np.maximum(end, peak * factor**decayed), warmup_steps)


def done(warmup_steps: int, steps: int) -> np.ndarray:
    """Return the share of the steps after warm-up that are done, before each: (steps - warmup_steps,), 0 to 1."""
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"warmup_steps {warmup_steps} must be from 0 to below steps {steps}")
    return np.arange(steps - warmup_steps) / max(1, steps - warmup_steps - 1)


def warmed_up(init: float, peak: float, fall: np.ndarray, warmup_steps: int) -> np.ndarray:
    """Return the rise of *warmup_steps* rates from *init* to below *peak*, and *fall* after it."""
    rise = init + (peak - init) * np.arange(warmup_steps) / max(1, warmup_steps)
    return np.concatenate([rise, fall]).astype(np.float32)


def rates(config: Config, steps_per_epoch: int) -> np.ndarray:
    """Return the rate of every step of the whole schedule: float32, (epoch_size * steps_per_epoch,)."""
    curve = (config.lr_init, config.lr_max, config.lr_end)
    spans = (config.warmup_epochs * steps_per_epoch, config.epoch_size * steps_per_epoch)
    if config.lr_decay_mode == "steps":
        decays = [epoch * steps_per_epoch for epoch in config.decay_epochs()]
        return step_rates(*curve, *spans, decays, config.lr_decay_factor)
    fall = {"poly": poly_rates, "cosine": cosine_rates, "linear": linear_rates}[config.lr_decay_mode]
    return fall(*curve, *spans)
