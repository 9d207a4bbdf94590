"""The tests on simulated graders: identical arms rarely differ, and a planted difference is found.

benchmarks/comparison_power.py does the same with a thousand comparisons of each kind.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from sparseopd.evaluation import inference
from sparseopd.evaluation.crossed import PerSeedAndPrompt
from sparseopd.evaluation.inference import Finding, different, equivalent, holm, superior
from sparseopd.evaluation.simulated import Grader, pair_of_arms, rate


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The intervals play no part in the verdicts."""
    estimate = inference.estimate
    monkeypatch.setattr(inference, "estimate", lambda values: estimate(values, resamples=2))


@pytest.mark.parametrize("luck", [0.0, 0.05, 0.1])
@pytest.mark.parametrize("prompts", [256, 512])
def test_identical_arms_differ_in_at_most_five_of_a_hundred_comparisons(
    luck: float, prompts: int
) -> None:
    grader = Grader(luck=luck, prompts=prompts)
    assert rate(different, grader, lift=0.0, comparisons=100) <= 0.05


def test_three_seeds_taken_as_so_many_prompts_would_fail_that() -> None:
    def naive(a: PerSeedAndPrompt, b: PerSeedAndPrompt) -> Finding:
        by_prompt = (a - b).mean(axis=0)
        z = by_prompt.mean() / (by_prompt.std() / len(by_prompt) ** 0.5)
        return Finding(difference=inference.estimate(a - b), p=float(2 * norm.sf(abs(z))), df=1)

    assert rate(naive, Grader(luck=0.1), lift=0.0, comparisons=100) > 0.05


def test_resampling_seeds_and_prompts_without_the_stretch_would_fail_it_too() -> None:
    """Three seeds resampled stray too little; the stretch makes up for it."""

    def plain(a: PerSeedAndPrompt, b: PerSeedAndPrompt) -> Finding:
        means = inference._resampled(a - b, 200, seed=0)
        low, high = np.quantile(means, [0.025, 0.975])
        return replace(different(a, b), p=float(low <= 0 <= high))

    unlucky = Grader(luck=0.4, prompts=256)
    assert rate(plain, unlucky, lift=0.0, comparisons=100) > 0.1
    assert rate(different, unlucky, lift=0.0, comparisons=100) <= 0.05


def test_a_planted_difference_of_five_points_is_found() -> None:
    power = rate(superior, Grader(luck=0.05), lift=0.05, comparisons=100)
    assert power >= 0.9  # 0.97 in a thousand comparisons


def test_arms_apart_by_more_than_the_margin_are_rarely_called_equivalent() -> None:
    def within(a: PerSeedAndPrompt, b: PerSeedAndPrompt) -> Finding:
        return equivalent(a, b, 0.03)

    assert rate(within, Grader(), lift=0.05, comparisons=100) <= 0.05
    assert rate(within, Grader(luck=0.0, prompts=1024), lift=0.0, comparisons=100) >= 0.8


def test_a_family_of_eight_finds_something_by_chance_in_few_of_a_hundred() -> None:
    rng, found = np.random.default_rng(0), 0
    for _ in range(100):
        tests = [superior(*pair_of_arms(Grader(prompts=128), 0.0, rng)) for _ in range(8)]
        found += any(test.found for test in holm(tests))
    assert found <= 5


def test_a_planted_lift_is_the_mean_difference() -> None:
    rng = np.random.default_rng(0)
    grader = Grader(seeds=200, prompts=2000, luck=0.0)
    first, second = pair_of_arms(grader, 0.05, rng)
    assert first.mean() == pytest.approx(0.85, abs=0.02)
    assert (second - first).mean() == pytest.approx(0.05, abs=0.005)
