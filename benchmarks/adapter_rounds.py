"""Ways of doing the same thing, timed in turn, and the ratio of one to another with its uncertainty."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles
from typing import Any

import numpy as np

Ways = Mapping[str, Callable[[], object]]
Seconds = dict[str, list[float]]
RESAMPLED = 4000


def in_turn(ways: Ways, rounds: int, *, warm_up: int = 2, before: Ways | None = None) -> Seconds:
    """Return the seconds of every way, one a round, in an order that is shuffled anew each round.

    Args:
        warm_up: rounds that are not counted.
        before: what is done before a way, untimed.
    """
    seconds: Seconds = {name: [] for name in ways}
    for number in range(-warm_up, rounds):
        for name in random.Random(number).sample(list(ways), len(ways)):
            if before is not None:
                before[name]()
            started = time.perf_counter()
            ways[name]()
            taken = time.perf_counter() - started
            if number >= 0:
                seconds[name].append(round(taken, 7))
    return seconds


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Return the median of the ratios within rounds, and its 95 % percentile bootstrap interval."""
    ratios = np.asarray(above) / np.asarray(below)
    drawn = np.random.default_rng(0).integers(len(ratios), size=(RESAMPLED, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), (0.025, 0.975))
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def spread(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Return the first quartile, the median and the third quartile."""
    first, _, third = quantiles(seconds, n=4, method="inclusive")
    return first, median(seconds), third


def described(seconds: Sequence[float], unit: float = 1000) -> str:
    """Write a median with its quartiles, in ms or whatever there are `unit` of in a second."""
    first, middle, third = (
        f"{unit * one:.{1 if unit * one < 99.95 else 0}f}" for one in spread(seconds)
    )
    return f"{middle} ({first}–{third})"


def interval(found: Mapping[str, Any], digits: int = 2) -> str:
    """Write a ratio with its interval."""
    return f"{found['median']:.{digits}f} ({found['low']:.{digits}f}–{found['high']:.{digits}f})"
