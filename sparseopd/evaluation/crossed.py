"""The mean of values crossed by training seed and prompt, and how far it can be trusted.

An arm is measured as (s, p): s seeds by p prompts, the same for every arm. Both are samples of many, so
a mean has three parts of variance: the seeds', the prompts', and what is left of single values
(two-way random effects without replication). Prompts are many and seeds are few: whoever treats three
seeds as fixed, or as so many values, finds differences between two runs of one and the same method.

The usual t quantile for one number of degrees of freedom (Satterthwaite 1946; Clark 1973, quasi-F) finds
too much as well: few seeds that agree by luck give a small error and many degrees of freedom at once, and
then up to 8 % of identical arms differ with three seeds, up to 12 % with two. Here every part of the
variance has its own quantile (Banerjee 1960), which holds the level for any ratio of the parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import stdtr, stdtrit

PerSeedAndPrompt = Float[np.ndarray, "s p"]

_SMALLEST = 1e-15
"""Of a p by parts: smaller ones differ in nothing that anyone would report."""


@dataclass(frozen=True, kw_only=True)
class CrossedMean:
    """A mean over seeds and prompts."""

    mean: float
    error: float
    """Its standard error, to new seeds and new prompts; with one seed, to new prompts alone."""
    df: float
    """Degrees of freedom behind the error (Satterthwaite), to be read; tests use those of the parts."""
    of_seeds: float
    """What differs between means of seeds, as variance of the mean; `seed_df` stand behind it."""
    of_prompts: float
    """What prompts add to that variance; `prompt_df` stand behind it."""
    seed_df: int
    prompt_df: int

    def reach(self, confidence: float) -> float:
        """Return how far the interval of a confidence reaches to either side.

        With t of each part's degrees of freedom that is √(t_seeds² · of_seeds + t_prompts² · of_prompts),
        and no less than t_prompts · error.

        Source: Banerjee 1960, Sankhyā 22: 359–376.
        """
        by_parts, at_least = self._reaches(0.5 - confidence / 2)
        return max(by_parts, at_least)

    def p_above(self, bound: float) -> float:
        """Return the one-sided p that the mean is not above `bound`; it agrees with `reach`."""
        gap = self.mean - bound
        if self.error == 0:
            return 0.0 if gap > 0 else 1.0
        p = max(self._tail_of_parts(abs(gap)), float(stdtr(self.prompt_df, -abs(gap) / self.error)))
        return p if gap > 0 else 1 - p

    def _reaches(self, tail: float) -> tuple[float, float]:
        """Return the reach by parts and the least one, for a probability above."""
        seeds, prompts = (-float(stdtrit(df, tail)) for df in (self.seed_df, self.prompt_df))
        by_parts = (seeds**2 * self.of_seeds + prompts**2 * self.of_prompts) ** 0.5
        return by_parts, prompts * self.error

    def _tail_of_parts(self, gap: float) -> float:
        """Return the probability above whose reach by parts is the gap."""
        whole = (self.of_seeds + self.of_prompts) ** 0.5
        if whole == 0:
            return 0.0
        # Both parts with the quantile of one of them reach less, and more, than each with its own.
        ends = sorted(float(stdtr(df, -gap / whole)) for df in (self.seed_df, self.prompt_df))
        low, high = max(0.999 * ends[0], _SMALLEST), min(max(1.001 * ends[1], _SMALLEST), 0.5)
        if low >= high or self._reaches(low)[0] <= gap:
            return low
        tail = brentq(lambda tail: self._reaches(exp(tail))[0] - gap, log(low), log(high))
        return exp(tail)  # pyright: ignore[reportArgumentType]


def crossed_mean(values: PerSeedAndPrompt) -> CrossedMean:
    """Return the mean of values with its standard error and degrees of freedom.

    The variance is (MS_seeds + MS_prompts - MS_rest) / (s·p), where neither of the first two counts for
    less than the rest: a few seeds that happen to agree are no proof that seeds do not matter. That makes
    it a little too wide where they do not (benchmarks/comparison_power.py has the rates).

    Raises `ValueError` for fewer than two values.
    """
    seeds, prompts = values.shape
    mean = float(values.mean())
    if values.size < 2:
        raise ValueError("one value has no spread: give two or more")
    if seeds == 1 or prompts == 1:
        return _of_one_kind(mean, float(values.var(ddof=1)) / values.size, values.size - 1)
    by_seed, by_prompt = values.mean(axis=1) - mean, values.mean(axis=0) - mean
    rest = values - mean - by_seed[:, None] - by_prompt
    dofs = np.array([seeds - 1, prompts - 1, (seeds - 1) * (prompts - 1)])
    sums = np.array([prompts * _squares(by_seed), seeds * _squares(by_prompt), _squares(rest)])
    of_seeds, of_prompts, of_rest = sums / dofs / values.size
    squares = np.array([max(of_seeds, of_rest), max(of_prompts, of_rest), of_rest])
    whole = float(squares[0] + squares[1] - squares[2])
    return CrossedMean(
        mean=mean,
        error=whole**0.5,
        df=whole**2 / float((squares**2 / dofs).sum()) if whole > 0 else float(seeds - 1),
        of_seeds=float(of_seeds),
        of_prompts=max(float(of_prompts - of_rest), 0.0),
        seed_df=seeds - 1,
        prompt_df=prompts - 1,
    )


def _of_one_kind(mean: float, variance: float, df: int) -> CrossedMean:
    """Return a mean over prompts of one seed, or over seeds on one prompt."""
    return CrossedMean(
        mean=mean,
        error=variance**0.5,
        df=df,
        of_seeds=0.0,
        of_prompts=variance,
        seed_df=df,
        prompt_df=df,
    )


def _squares(values: np.ndarray) -> float:
    total = float(np.square(values).sum())
    # Differences of equal numbers leave roundings, which are no variance.
    return total if total > 1e-24 * values.size else 0.0
