"""Bootstrap intervals over prompts, paired between arms.

The prompts are the independent units: the samples of one prompt share its difficulty. Every
function resamples prompts by the same seeded draws, so arms scored on the same prompts stay paired.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import bootstrap

from sparseopd.artifacts import Interval

PerPrompt = Float[np.ndarray, "p"]
"""One figure for each prompt, in the shared order."""

_BATCH_ELEMENTS = 2**22  # resampled values held at once: 32 MiB


def bootstrap_mean(
    values: PerPrompt, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean over prompts with its percentile bootstrap interval.

    Give differences between two arms, prompt by prompt, for a paired interval. A single prompt
    shows no spread: its interval is its value.

    Args:
        values: (p,) one figure for each prompt.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, §13.3.
    """
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, mean, mean)
    low, high = _percentiles((values,), np.mean, resamples, confidence, seed)
    return Interval(mean, low, high)


def bootstrap_ratio(
    numerator: PerPrompt,
    denominator: PerPrompt,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Return mean(numerator) / mean(denominator), resampling prompts jointly.

    With numerator = arm - source and denominator = full - source this is the share of the full
    run's gain that the arm keeps. None unless the denominator's own interval lies above zero: there
    is no share of a gain that may be nothing.

    Args:
        numerator: (p,) one arm's gain on each prompt.
        denominator: (p,) the reference's gain on the same prompts.
    """
    settings: dict[str, Any] = {"resamples": resamples, "confidence": confidence, "seed": seed}
    if bootstrap_mean(denominator, **settings).low <= 0:
        return None
    ratio = float(np.mean(numerator) / np.mean(denominator))
    if len(denominator) == 1:
        return Interval(ratio, ratio, ratio)
    low, high = _percentiles((numerator, denominator), _ratio, *settings.values())
    # With few prompts a resample can lack every gain; an end that falls there says nothing.
    return Interval(ratio, low, high) if np.isfinite([low, high]).all() else None


def _percentiles(
    data: tuple[PerPrompt, ...], statistic: Any, resamples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Return the ends of the percentile interval; `paired` draws whole prompts, not values."""
    result = bootstrap(
        data,
        statistic,
        n_resamples=resamples,
        batch=max(1, _BATCH_ELEMENTS // len(data[0])),
        vectorized=True,
        paired=len(data) > 1,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    # Of equal values the two percentiles are interpolated apart, by a unit in the last place.
    low, high = sorted(map(float, result.confidence_interval))
    return low, high


def _ratio(numerator: Any, denominator: Any, axis: int) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.mean(numerator, axis=axis) / np.mean(denominator, axis=axis)
