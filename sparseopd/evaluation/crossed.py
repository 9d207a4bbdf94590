"""The mean of values crossed by training seed and prompt, and how far it can be trusted.

An arm is measured as (s, p): s seeds by p prompts, the same for every arm. Both are samples of many, so
a mean has three parts of variance: the seeds', the prompts', and what is left of single values
(two-way random effects without replication). Prompts are many and seeds are few: whoever treats three
seeds as fixed, or as so many values, finds differences between two runs of one and the same method.

Source: Satterthwaite 1946 for the degrees of freedom; Clark 1973 for subjects crossed with items (quasi-F).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import t

PerSeedAndPrompt = Float[np.ndarray, "s p"]


@dataclass(frozen=True)
class CrossedMean:
    """A mean over seeds and prompts."""

    mean: float
    error: float
    """Its standard error, to new seeds and new prompts; with one seed, to new prompts alone."""
    df: float
    """Degrees of freedom behind the error."""

    def reach(self, confidence: float) -> float:
        """Return how far the interval of a confidence reaches to either side."""
        return self.error * float(t.ppf(0.5 + confidence / 2, self.df))

    def p_above(self, bound: float) -> float:
        """Return the one-sided p that the mean is not above `bound`."""
        if self.error == 0:
            return 0.0 if self.mean > bound else 1.0
        return float(t.sf((self.mean - bound) / self.error, self.df))


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
        error = float(values.std(ddof=1)) / values.size**0.5
        return CrossedMean(mean, error, values.size - 1)
    by_seed, by_prompt = values.mean(axis=1) - mean, values.mean(axis=0) - mean
    rest = values - mean - by_seed[:, None] - by_prompt
    dofs = np.array([seeds - 1, prompts - 1, (seeds - 1) * (prompts - 1)])
    sums = np.array([prompts * _squares(by_seed), seeds * _squares(by_prompt), _squares(rest)])
    of_seeds, of_prompts, of_rest = sums / dofs
    squares = np.array([max(of_seeds, of_rest), max(of_prompts, of_rest), of_rest])
    whole = float(squares[0] + squares[1] - squares[2])
    if whole <= 0:
        return CrossedMean(mean, 0.0, float(seeds - 1))
    df = whole**2 / float((squares**2 / dofs).sum())
    return CrossedMean(mean, (whole / values.size) ** 0.5, df)


def _squares(values: np.ndarray) -> float:
    total = float(np.square(values).sum())
    # Differences of equal numbers leave roundings, which are no variance.
    return total if total > 1e-24 * values.size else 0.0
