"""Intervals against known answers, their coverage, and what pairing buys."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseopd.evaluation.statistics import bootstrap_mean, bootstrap_ratio


def test_the_interval_of_a_large_sample_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    interval = bootstrap_mean(values, resamples=4000)
    margin = 1.96 * values.std() / 20
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - margin, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + margin, abs=0.02)


def test_two_prompts_can_be_counted_by_hand() -> None:
    """Resamples of (0, 1) have means 0, ½, ½, 1 alike: quartiles at the ends of the middle."""
    wide = bootstrap_mean(np.array([0.0, 1.0]), confidence=0.95)
    assert (wide.mean, wide.low, wide.high) == (0.5, 0.0, 1.0)
    narrow = bootstrap_mean(np.array([0.0, 1.0]), confidence=0.4)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_coverage_on_simulated_data() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        interval = bootstrap_mean(rng.binomial(4, 0.6, size=60) / 4, resamples=400)
        hits += interval.low <= 0.6 <= interval.high
    assert 0.90 <= hits / 300 <= 0.985


def test_coverage_of_the_ratio() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        full = rng.normal(0.3, 0.4, size=80)
        arm = 0.9 * full + rng.normal(0, 0.15, size=80)
        interval = bootstrap_ratio(arm, full, resamples=400)
        assert interval is not None
        hits += interval.low <= 0.9 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_pairing_narrows_the_interval_of_a_difference() -> None:
    rng = np.random.default_rng(3)
    difficulty = rng.uniform(size=200)
    source, arm = (np.clip(difficulty + rng.normal(shift, 0.05, 200), 0, 1) for shift in (0, 0.1))
    paired = bootstrap_mean(arm - source)
    unpaired = bootstrap_mean(arm - rng.permutation(source))
    assert paired.mean == pytest.approx(unpaired.mean)
    assert paired.high - paired.low < 0.3 * (unpaired.high - unpaired.low)


def test_the_ratio_resamples_prompts_jointly() -> None:
    full = np.random.default_rng(4).uniform(0.0, 1.0, size=50)
    kept = bootstrap_ratio(0.5 * full, full)
    assert kept is not None
    assert kept.low == pytest.approx(0.5) and kept.high == pytest.approx(0.5)
    apart = bootstrap_ratio(0.5 * full[::-1], full)
    assert apart is not None and apart.high - apart.low > 0.1


@pytest.mark.parametrize("gain", [[-1.0, 1.0, 0.5, -0.4], [0.0, 0.0, 0.0, 0.0], [-1, -1, -1, -1]])
def test_no_share_of_a_gain_that_may_be_nothing(gain: list[float]) -> None:
    assert bootstrap_ratio(np.ones(4), np.array(gain)) is None


def test_a_single_prompt() -> None:
    interval = bootstrap_mean(np.array([0.25]))
    assert (interval.mean, interval.low, interval.high) == (0.25, 0.25, 0.25)
    ratio = bootstrap_ratio(np.array([0.25]), np.array([0.5]))
    assert ratio is not None and (ratio.mean, ratio.low, ratio.high) == (0.5, 0.5, 0.5)
    assert bootstrap_ratio(np.array([0.25]), np.array([0.0])) is None


def test_the_same_seed_gives_the_same_draws() -> None:
    values = np.random.default_rng(5).uniform(size=30)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)
    np.random.seed(0)
    first = np.random.random()
    np.random.seed(0)
    bootstrap_mean(values)
    assert np.random.random() == first  # numpy's global generator is left alone


def test_a_confidence_narrower_than_another_lies_inside_it() -> None:
    values = np.random.default_rng(6).uniform(size=30)
    wide, narrow = bootstrap_mean(values, confidence=0.99), bootstrap_mean(values, confidence=0.8)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_equal_values_have_an_interval_that_is_not_inside_out() -> None:
    interval = bootstrap_mean(np.full(2, 3.7817035399095457e-78), resamples=50)
    assert interval.low <= interval.high


floats = st.floats(-1, 1, allow_subnormal=False)


@settings(max_examples=40, deadline=None)
@given(st.lists(floats, min_size=2, max_size=20), st.floats(0.1, 10), st.floats(-3, 3))
def test_intervals_move_and_scale_with_the_values(values, scale, shift) -> None:
    """All arms meet the same draws, so an arm that is an affine image has the image's interval."""
    array = np.array(values)
    one = bootstrap_mean(array, resamples=50)
    other = bootstrap_mean(scale * array + shift, resamples=50)
    for end in ("mean", "low", "high"):
        expected = scale * getattr(one, end) + shift
        assert getattr(other, end) == pytest.approx(expected, abs=1e-9)
    assert array.min() - 1e-12 <= one.low <= one.high <= array.max() + 1e-12
