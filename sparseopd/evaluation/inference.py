"""Intervals and tests for arms measured with several seeds on the same prompts.

    estimate(values)                 a mean with its interval over seeds and prompts
    gain_kept(arm, full, source)     the share of full's gain that an arm keeps
    superior(a, b)                   is a better than b?
    equivalent(a, b, margin)         is a as good as b, within a margin, in both directions?
    holm(tests)                      the same, corrected for how many were put

Values are (s, p), seeds by prompts, paired between arms by both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import norm

from sparseopd.artifacts import Interval
from sparseopd.evaluation.crossed import CrossedMean, PerSeedAndPrompt, crossed_mean

LEVEL = 0.05
"""Of every test, after correction."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One question put to two arms."""

    difference: Interval
    """First arm minus second, with its interval over seeds and prompts."""
    p: float
    df: float
    """Of the standard error (Satterthwaite), to be read; p is of `CrossedMean.p_above`."""
    margin: float | None = None
    """What counts as equivalent; None for tests of superiority and of any difference."""
    adjusted: float | None = None
    """p after correction for the tests put together with it; None before."""

    @property
    def found(self) -> bool:
        """Whether the answer is yes, at `LEVEL`."""
        return (self.p if self.adjusted is None else self.adjusted) <= LEVEL


def estimate(
    values: PerSeedAndPrompt,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    within: tuple[float, float] | None = None,
) -> Interval:
    """Return the mean with its bootstrap interval over seeds and prompts.

    Seeds and prompts are resampled independently of each other (Owen 2007, the pigeonhole bootstrap).
    Few seeds resampled stray too little (Hesterberg 2015, narrowness bias), so the resampled means are
    stretched about the mean until the interval is as wide as `CrossedMean.reach` says it must be. With
    one seed only prompts are resampled.

    Args:
        within: the values that a mean can have at all; the interval is cut there.
    """
    low, high = _ends(values, crossed_mean(values), confidence, resamples, seed)
    mean = float(values.mean())
    if within is not None:
        low, high = max(low, within[0]), min(high, within[1])
    return Interval(mean, low, high)


def gain_kept(
    arm: PerSeedAndPrompt,
    full: PerSeedAndPrompt,
    source: PerSeedAndPrompt,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:
    """Return (mean arm - mean source) / (mean full - mean source) with its interval.

    To first order the ratio strays as the mean of (arm - source) - ratio · (full - source) does, over
    full's gain; that is resampled as in `estimate`. None unless full's own gain is clearly above zero:
    there is no share of a gain that may be nothing.
    """
    gain, whole = arm - source, full - source
    total = crossed_mean(whole)
    if total.mean - total.reach(confidence) <= 0:
        return None
    ratio = float(gain.mean() / total.mean)
    linear = (gain - ratio * whole) / total.mean
    low, high = _ends(linear, crossed_mean(linear), confidence, resamples, seed)
    return Interval(ratio, ratio + low, ratio + high)


def different(a: PerSeedAndPrompt, b: PerSeedAndPrompt, **interval: Any) -> Finding:
    """Test whether two arms differ, in either direction; `interval` are keywords of `estimate`."""
    found = crossed_mean(a - b)
    p = min(1.0, 2 * min(found.p_above(0), _p_below(found, 0)))
    return Finding(difference=estimate(a - b, **interval), p=p, df=found.df)


def superior(a: PerSeedAndPrompt, b: PerSeedAndPrompt, **interval: Any) -> Finding:
    """Test whether the first arm is better: one-sided."""
    found = crossed_mean(a - b)
    return Finding(difference=estimate(a - b, **interval), p=found.p_above(0), df=found.df)


def equivalent(a: PerSeedAndPrompt, b: PerSeedAndPrompt, margin: float, **interval: Any) -> Finding:
    """Test whether two arms lie within `margin` of each other, by two one-sided tests.

    Source: Schuirmann 1987 (TOST). It is found exactly where the 90 % interval of `crossed_mean` lies
    within the margin; the stored interval is of 95 %, as everywhere.
    """
    found = crossed_mean(a - b)
    p = max(found.p_above(-margin), _p_below(found, margin))
    return Finding(difference=estimate(a - b, **interval), p=p, df=found.df, margin=margin)


def holm(tests: Sequence[Finding]) -> list[Finding]:
    """Return the tests with p adjusted for their number.

    Source: Holm 1979, step down: the i-th smallest of m is multiplied by m - i + 1, and none may be
    smaller than one before.
    """
    order = sorted(range(len(tests)), key=lambda place: tests[place].p)
    adjusted, largest = [1.0] * len(tests), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(tests) - rank) * tests[place].p))
        adjusted[place] = largest
    return [replace(test, adjusted=p) for test, p in zip(tests, adjusted, strict=True)]


def _p_below(found: CrossedMean, bound: float) -> float:
    return replace(found, mean=-found.mean).p_above(-bound)


def _ends(
    values: PerSeedAndPrompt, found: CrossedMean, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Return the ends of the stretched bootstrap interval."""
    means = _resampled(values, resamples, seed) - found.mean
    spread = float(means.std())
    if found.error == 0 or spread == 0:
        return found.mean, found.mean
    z = float(norm.ppf(0.5 + confidence / 2))
    stretch = found.reach(confidence) / (z * spread)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means * stretch, [tail, 1 - tail])
    return found.mean + float(low), found.mean + float(high)


def _resampled(values: PerSeedAndPrompt, resamples: int, seed: int) -> np.ndarray:
    """Return the means of resampled seeds and prompts, (resamples,)."""
    rng, (seeds, prompts) = np.random.default_rng(seed), values.shape
    of_prompts = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples) / prompts
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    return np.einsum("rs,rs->r", of_prompts @ values.T, of_seeds)
