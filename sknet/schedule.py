"""The learning rate of every step, as plain numbers."""

from __future__ import annotations

import numpy as np

from sknet.config import Config

POWER = 2.0  # of the polynomial; published recipe, research/cv/sknet


def poly_rates(init: float, peak: float, end: float, warmup_steps: int, steps: int) -> np.ndarray:
    """Return one learning rate per optimiser step: float32, shape (steps,).

    Rises linearly from *init* at step 0 towards *peak* at step *warmup_steps*, then falls as
    (1 - progress) ** POWER to *end* at the last step. Raises ValueError unless 0 <= warmup_steps < steps.
    Source: polynomial decay of mindspore-ai/models, research/cv/sknet, which ends at 0 instead.
    """
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"warmup_steps {warmup_steps} must be from 0 to below steps {steps}")
    rise = init + (peak - init) * np.arange(warmup_steps) / max(1, warmup_steps)
    progress = np.arange(steps - warmup_steps) / max(1, steps - warmup_steps - 1)  # 0 at the peak, 1 at the end
    fall = end + (peak - end) * (1.0 - progress) ** POWER
    return np.concatenate([rise, fall]).astype(np.float32)


def rates(config: Config, steps_per_epoch: int) -> np.ndarray:
    """Return the rates of the steps still to do: float32, ((epoch_size - pretrain_epoch_size) * steps_per_epoch,)."""
    every = poly_rates(
        config.lr_init,
        config.lr_max,
        config.lr_end,
        config.warmup_epochs * steps_per_epoch,
        config.epoch_size * steps_per_epoch,
    )
    return every[config.pretrain_epoch_size * steps_per_epoch :]
