"""Learning rates: as many trials for everyone, and a best one with neighbours on both sides."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from sparseopd.comparison.tuning import best_rate, first_rates, is_bracketed, next_rate


def climb(peak: float, start: float, trials: int, factor: float = 2.0) -> dict[float, tuple]:
    """Tune an arm whose score falls with the distance from its best rate, in factors."""

    def score(rate: float) -> tuple[float, float]:
        return (-abs(math.log(rate / peak)), 0.0)

    scores = {rate: score(rate) for rate in first_rates(start, factor, trials)}
    while len(scores) < trials:
        rate = next_rate(scores, factor)
        scores[rate] = score(rate)
    return scores


@given(st.floats(1e-5, 1e-1), st.floats(1e-4, 1e-2), st.integers(2, 9))
def test_every_trial_is_another_rate_and_none_is_left_over(
    peak: float, start: float, trials: int
) -> None:
    assert len(climb(peak, start, trials)) == trials


def test_the_best_rate_is_followed_until_it_has_neighbours() -> None:
    scores = climb(peak=8e-3, start=1e-3, trials=6)
    assert is_bracketed(list(scores), best_rate(scores))
    assert abs(best_rate(scores) / 8e-3 - 1) < 0.05


def test_the_best_rate_is_followed_downwards_too() -> None:
    scores = climb(peak=1.3e-4, start=1e-3, trials=6)
    assert is_bracketed(list(scores), best_rate(scores))


def test_what_is_left_refines_between_the_best_and_its_better_neighbour() -> None:
    scores = {1e-3: (0.8, 0.0), 2e-3: (0.9, 0.0), 4e-3: (0.85, 0.0)}
    assert 2e-3 < next_rate(scores, 2.0) < 4e-3


def test_equal_accuracies_are_told_apart_by_the_distance_to_the_teacher() -> None:
    assert best_rate({1e-3: (0.9, -0.3), 2e-3: (0.9, -0.1)}) == 2e-3
    assert best_rate({1e-3: (0.9, -0.1), 2e-3: (0.9, -0.1)}) == 1e-3


def test_an_edge_is_no_bracket() -> None:
    assert not is_bracketed([1e-3, 2e-3], 2e-3)
