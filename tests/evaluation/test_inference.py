"""Intervals, tests and corrections."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from sparseopd.evaluation.crossed import crossed_mean
from sparseopd.evaluation.inference import (
    Finding,
    different,
    equivalent,
    estimate,
    gain_kept,
    holm,
    superior,
)


def values(seed: int = 0, mean: float = 0.0, shape: tuple[int, int] = (3, 200)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return mean + rng.normal(0, 0.05, (shape[0], 1)) + rng.normal(0, 0.3, shape)


def test_the_interval_strays_as_the_crossed_mean_says() -> None:
    found, interval = crossed_mean(values()), estimate(values(), resamples=20_000)
    width = interval.high - interval.low
    assert interval.mean == pytest.approx(found.mean)
    assert width == pytest.approx(2 * found.reach(0.95), rel=0.05)


def test_an_interval_is_the_same_every_time_and_can_be_cut() -> None:
    assert estimate(values()) == estimate(values())
    high = estimate(1 + values(), within=(0.0, 1.0))
    assert high.high == 1.0 > high.low


def test_a_gain_kept_is_a_share_with_an_interval_around_it() -> None:
    rng = np.random.default_rng(0)
    source = rng.binomial(4, 0.5, (3, 400)) / 4
    full = rng.binomial(4, 0.9, (3, 400)) / 4
    half = rng.binomial(4, 0.7, (3, 400)) / 4
    found = gain_kept(half, full, source)
    assert found is not None
    assert found.low < 0.5 < found.high
    assert found.mean == pytest.approx((half - source).mean() / (full - source).mean())
    assert found.high - found.low < 0.3
    whole = gain_kept(full, full, source)
    assert whole is not None and (whole.mean, whole.low, whole.high) == pytest.approx((1, 1, 1))


def test_there_is_no_share_of_a_gain_that_may_be_nothing() -> None:
    rng = np.random.default_rng(0)
    source, full = rng.binomial(4, 0.5, (2, 3, 50)) / 4
    assert gain_kept(full, full, source) is None


def test_a_gain_kept_covers_the_truth_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(5), 0
    for _ in range(200):
        difficulty = rng.normal(0, 1.2, 200)

        def arm(level: float, difficulty: np.ndarray = difficulty) -> np.ndarray:
            logits = level + difficulty + rng.normal(0, 0.1, (3, 1))
            return rng.binomial(4, 1 / (1 + np.exp(-logits))) / 4

        # An arm and full of the same quality keep all of the gain.
        found = gain_kept(arm(2.0), arm(2.0), arm(0.0), resamples=300)
        covered += found is not None and found.low <= 1 <= found.high
    assert 180 <= covered <= 200


def test_tests_look_in_the_direction_they_are_asked() -> None:
    low, high = values(0), values(1, mean=0.3)
    assert superior(high, low).found and not superior(low, high).found
    assert different(high, low).found and different(low, high).found
    assert not equivalent(high, low, 0.1).found
    assert equivalent(low, low + 0.001, 0.1).found


def test_equivalence_is_the_ninety_percent_interval_within_the_margin() -> None:
    a, b = values(0), values(1)
    found = crossed_mean(a - b)
    edge = abs(found.mean) + found.reach(0.9)
    assert equivalent(a, b, edge * 1.001).found
    assert not equivalent(a, b, edge * 0.999).found


def test_arms_of_equal_values_are_equivalent_and_not_better() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = values()
        assert superior(same, same).p == 1.0
        assert different(same, same).p == 1.0
        assert equivalent(same, same, 0.01).p == 0.0
        difference = superior(same, same).difference
        assert (difference.mean, difference.low, difference.high) == (0, 0, 0)


def test_holm_multiplies_step_by_step() -> None:
    tests = [Finding(difference=estimate(values()), p=p, df=2) for p in (0.04, 0.01, 0.03)]
    adjusted = [test.adjusted for test in holm(tests)]
    assert adjusted == pytest.approx([0.06, 0.03, 0.06])
    assert [test.found for test in holm(tests)] == [False, True, False]
    assert holm([]) == []
