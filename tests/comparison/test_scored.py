"""Measurements of several seeds as matrices, and what becomes of a run that failed."""

from __future__ import annotations

import numpy as np
import pytest

from sparseopd.comparison.scored import Scored, Statistics, scored, seed_results, verdict

STATISTICS = Statistics(confidence=0.95, resamples=200, margin=0.03)


def measurement(right: list[int], kl: float = 0.1) -> dict:
    return {
        "samples": 4,
        "right": right,
        "kl": [kl] * len(right),
        "truncated": 0.0,
        "mean_tokens": 4.0,
        "forgetting": 0.2,
    }


def arm(*seeds: list[int]) -> Scored:
    found = {seed: measurement(right) for seed, right in enumerate(seeds)}
    return scored(found, samples=4, prompts=len(seeds[0]), graded=True)


def test_right_samples_become_accuracies_and_pass_at_k() -> None:
    found = arm([4, 2, 0], [1, 1, 1])
    assert found.accuracy == pytest.approx(np.array([[1, 0.5, 0], [0.25, 0.25, 0.25]]))
    assert found.pass_at(4) == pytest.approx(np.array([[1, 1, 0], [1, 1, 1]]))
    assert found.kl == pytest.approx(np.full((2, 3), 0.1))


def test_a_run_that_failed_has_nothing_right_and_no_kl() -> None:
    found = {0: measurement([4, 4]), 1: {"failed": "the loss is nan"}}
    told = scored(found, samples=4, prompts=2, graded=True)
    assert told.accuracy == pytest.approx(np.array([[1, 1], [0, 0]]))
    assert told.kl is None and told.forgetting == [0.2, None]
    alone = scored({0: {"failed": "x"}}, samples=4, prompts=2, graded=True)
    assert alone.accuracy == pytest.approx(np.zeros((1, 2)))


def test_without_a_grader_there_is_no_accuracy() -> None:
    found = {0: {**measurement([0, 0]), "right": None}}
    told = scored(found, samples=4, prompts=2, graded=False)
    assert told.accuracy is None and told.pass_at(1) is None and told.kl is not None
    assert STATISTICS.equivalence(told, told) is None
    assert STATISTICS.kept(told, told, told) is None
    [row] = seed_results(told, [1], {}, {})
    assert row.accuracy is None and row.pass_at == {} and row.kl == pytest.approx(0.1)


def test_every_seed_is_told_by_itself() -> None:
    rows = seed_results(arm([4, 0], [2, 2]), [1, 4], {1: {"1e-05": 0.5}}, {0: 3.0, 1: None})
    assert [row.accuracy for row in rows] == [0.5, 0.5]
    assert [row.pass_at for row in rows] == [{"1": 0.5, "4": 0.5}, {"1": 0.5, "4": 1.0}]
    assert [row.agreement for row in rows] == [{}, {"1e-05": 0.5}]
    assert [row.seconds for row in rows] == [3.0, None]


def test_a_verdict_says_against_whom_and_by_what_margin() -> None:
    rng = np.random.default_rng(0)
    good = arm(*rng.binomial(4, 0.9, (3, 200)).tolist())
    bad = arm(*rng.binomial(4, 0.5, (3, 200)).tolist())
    better = STATISTICS.superiority(good, bad)
    same = STATISTICS.equivalence(good, bad)
    assert better is not None and same is not None
    told = verdict(better, "random")
    assert told.found and told.against == "random" and told.margin is None
    assert told.difference.low < 0.4 < told.difference.high
    assert not verdict(same, "full").found and verdict(same, "full").margin == 0.03


def test_shares_stay_between_nothing_and_all() -> None:
    interval = STATISTICS.share(arm([4, 4, 4, 3], [4, 4, 4, 4]).accuracy)
    assert interval is not None and interval.high == 1.0
