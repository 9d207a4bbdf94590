"""Means over seeds and prompts: both are samples of many, and few seeds say little."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from sparseopd.evaluation.crossed import crossed_mean


def test_one_seed_is_the_ordinary_t_test_over_prompts() -> None:
    values = np.random.default_rng(0).normal(0.1, 1, (1, 50))
    found = crossed_mean(values)
    known = ttest_1samp(values[0], 0)
    assert found.df == 49
    assert 2 * found.p_above(0) == pytest.approx(known.pvalue)  # pyright: ignore
    low, high = known.confidence_interval(0.95)  # pyright: ignore
    assert found.reach(0.95) == pytest.approx((high - low) / 2)


def test_where_seeds_decide_all_it_is_the_t_test_over_seeds() -> None:
    by_seed = np.array([0.1, 0.4, 0.3])
    found = crossed_mean(np.repeat(by_seed[:, None], 200, axis=1))
    assert found.df == pytest.approx(2)
    assert found.error == pytest.approx(by_seed.std(ddof=1) / 3**0.5)


def test_where_prompts_decide_all_it_is_the_t_test_over_prompts() -> None:
    by_prompt = np.random.default_rng(1).normal(size=200)
    found = crossed_mean(np.repeat(by_prompt[None], 3, axis=0))
    assert found.df == pytest.approx(199)
    assert found.error == pytest.approx(by_prompt.std(ddof=1) / 200**0.5)


def test_the_variance_is_that_of_means_drawn_anew() -> None:
    rng = np.random.default_rng(2)

    def drawn() -> np.ndarray:
        seeds, prompts = rng.normal(0, 0.3, (4, 1)), rng.normal(0, 1, (1, 60))
        return seeds + prompts + rng.normal(0, 0.5, (4, 60))

    several = [crossed_mean(drawn()) for _ in range(3000)]
    true = np.var([one.mean for one in several])
    assert np.mean([one.error**2 for one in several]) == pytest.approx(true, rel=0.06)


def test_seeds_that_happen_to_agree_do_not_make_the_error_small() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(3, 100))
    agreeing = values - values.mean(axis=1, keepdims=True)
    found = crossed_mean(agreeing)
    rest = np.square(agreeing - agreeing.mean(axis=0)).sum() / (2 * 99)
    assert found.error**2 >= rest / 300


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("of_seeds", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("of_prompts", [0.0, 1.0])
def test_few_seeds_keep_the_level_whatever_the_parts_of_variance(
    seeds: int, of_seeds: float, of_prompts: float
) -> None:
    drawn = [crossed_mean(one) for one in _drawn(seeds, of_seeds, of_prompts, 500)]
    assert np.mean([abs(one.mean) > one.reach(0.95) for one in drawn]) <= 0.07  # 0.05 + 2 errors


def test_one_number_of_degrees_of_freedom_would_not() -> None:
    drawn = [crossed_mean(one) for one in _drawn(2, 0.5, 1.0, 500)]
    found = [abs(one.mean) > one.error * student.ppf(0.975, one.df) for one in drawn]
    assert np.mean(found) > 0.07


def _drawn(seeds: int, of_seeds: float, of_prompts: float, times: int) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    sizes = ((seeds, 1, of_seeds), (1, 80, of_prompts), (seeds, 80, 1.0))
    return [sum(rng.normal(0, size, shape) for *shape, size in sizes) for _ in range(times)]  # pyright: ignore


@given(st.integers(1, 6), st.integers(2, 40), st.integers(0, 10**6), st.floats(0.01, 0.999))
def test_p_is_that_of_the_interval_which_ends_there(
    seeds: int, prompts: int, seed: int, confidence: float
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 0.2, (seeds, 1)) + rng.normal(size=(seeds, prompts))
    found = crossed_mean(values)
    reach = found.reach(confidence)
    assert found.p_above(found.mean - reach) == pytest.approx(0.5 - confidence / 2, rel=1e-6)
    assert found.p_above(found.mean + reach) == pytest.approx(0.5 + confidence / 2, rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 5), (3, 5), (3, 1)])
def test_equal_values_have_no_error_and_no_doubt(shape: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = crossed_mean(np.full(shape, 0.3))
        assert found.error == pytest.approx(0, abs=1e-12)
        assert crossed_mean(np.zeros(shape)).p_above(0) == 1.0
        assert crossed_mean(np.zeros(shape)).p_above(-0.1) == 0.0


def test_a_single_value_is_refused() -> None:
    with pytest.raises(ValueError, match="one value has no spread"):
        crossed_mean(np.zeros((1, 1)))


@given(st.integers(2, 5), st.integers(2, 30), st.integers(0, 10**6), st.floats(-5, 5))
def test_moving_all_values_moves_the_mean_alone(
    seeds: int, prompts: int, seed: int, by: float
) -> None:
    values = np.random.default_rng(seed).normal(size=(seeds, prompts))
    found, moved = crossed_mean(values), crossed_mean(values + by)
    assert moved.mean == pytest.approx(found.mean + by, abs=1e-9)
    assert moved.error == pytest.approx(found.error, rel=1e-6)
    assert 0 < found.df <= values.size
