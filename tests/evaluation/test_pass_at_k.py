"""pass@k is the chance that one of k samples drawn without replacement is right."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from sparseopd.evaluation.pass_at_k import pass_at_k


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_it_counts_all_choices_of_k_samples(k: int) -> None:
    correct = np.random.default_rng(k).random((2, 7, 5)) < 0.3
    counted = [
        [np.mean([any(row[list(some)]) for some in combinations(range(5), k)]) for row in seed]
        for seed in correct
    ]
    assert pass_at_k(correct, k) == pytest.approx(np.array(counted))


def test_one_sample_is_the_accuracy() -> None:
    correct = np.random.default_rng(0).random((3, 10, 4)) < 0.5
    assert pass_at_k(correct, 1) == pytest.approx(correct.mean(axis=2))


@pytest.mark.parametrize("k", [0, 5])
def test_more_samples_than_there_are_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k is {k}, and there are 4 samples"):
        pass_at_k(np.zeros((1, 1, 4), dtype=bool), k)
