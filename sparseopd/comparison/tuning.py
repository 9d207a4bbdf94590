"""Find an arm's learning rate in a fixed number of trials.

Every arm is given as many trials. Three begin, the start and a factor to either side; what is left goes
on beyond the best while that lies at an end, and else between the best and its better neighbour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

Score = tuple[float, float]
"""Accuracy and minus the KL to the teacher: more is better, and the second decides between equals."""


def first_rates(start: float, factor: float, trials: int) -> list[float]:
    """Return the rates to begin with: the start, and a factor to either side as far as trials go."""
    return [_round(rate) for rate in (start, start * factor, start / factor)[:trials]]


def next_rate(scores: Mapping[float, Score], factor: float) -> float:
    """Return the rate to try after those that have a score; two or more."""
    rates, place = sorted(scores), sorted(scores).index(best_rate(scores))
    if place == 0:
        return _round(rates[0] / factor)
    if place == len(rates) - 1:
        return _round(rates[-1] * factor)
    neighbours = sorted((rates[place - 1], rates[place + 1]), key=lambda rate: scores[rate])
    between = [_round(sqrt(rates[place] * rate)) for rate in reversed(neighbours)]
    # Rates that are told apart by less than their digits need no trial between them.
    return next(rate for rate in (*between, _round(rates[-1] * factor)) if rate not in scores)


def best_rate(scores: Mapping[float, Score]) -> float:
    """Return the rate of the best score; of equal ones, the lowest rate's."""
    return max(sorted(scores), key=lambda rate: scores[rate])


def is_bracketed(rates: Sequence[float], best: float) -> bool:
    """Whether a lower and a higher rate were tried."""
    return min(rates) < best < max(rates)


def _round(rate: float) -> float:
    """Three digits say all that a rate has to, and keep names short."""
    return float(f"{rate:.3g}")
