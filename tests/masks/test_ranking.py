"""Exactly k, always, and the k largest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparseopd.masks.ranking import random_scores, take_largest


def scores_of(values: dict[str, list[float]]) -> dict[str, Tensor]:
    return {
        name: torch.tensor(row, dtype=torch.float32).abs().view(torch.int32)
        for name, row in values.items()
    }


@given(
    rows=st.lists(
        st.lists(
            st.sampled_from([0.0, 1e-45, 1e-8, 0.5, 0.5000001, 1.0, 3e38])
            | st.floats(0, 4, width=32),
            max_size=30,
        ),
        min_size=1,
        max_size=4,
    ),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_takes_the_k_largest(rows: list[list[float]], data: st.DataObject) -> None:
    scores = scores_of({f"t{index}": row for index, row in enumerate(rows)})
    total = sum(map(len, rows))
    k = data.draw(st.integers(0, total))
    chosen = take_largest(scores.__getitem__, list(scores), k, seed=0)
    taken = torch.cat([scores[name][chosen[name]] for name in scores])
    left = torch.cat([scores[name][~chosen[name]] for name in scores])
    assert len(taken) == k
    if len(taken) and len(left):
        assert taken.min() >= left.max()


def test_ties_depend_on_the_seed_but_not_on_the_order_of_tensors() -> None:
    scores = {name: torch.zeros(50, dtype=torch.int32) for name in ("a", "b", "c")}
    forward = take_largest(scores.__getitem__, ["a", "b", "c"], 40, seed=3)
    backward = take_largest(scores.__getitem__, ["c", "b", "a"], 40, seed=3)
    other = take_largest(scores.__getitem__, ["a", "b", "c"], 40, seed=4)
    assert all(torch.equal(forward[name], backward[name]) for name in scores)
    assert any(not torch.equal(forward[name], other[name]) for name in scores)


def test_random_scores_are_uniform_and_of_their_name() -> None:
    scores = random_scores("a", 200_000, seed=0)
    assert scores.dtype == torch.int32 and int(scores.min()) >= 0
    counts = np.bincount(scores.numpy() >> 27, minlength=16)
    assert np.abs(counts / 200_000 - 1 / 16).max() < 0.003  # 5.5 standard deviations
    assert not torch.equal(scores, random_scores("b", 200_000, seed=0))
    assert torch.equal(scores[:100], random_scores("a", 100, seed=0))


@pytest.mark.parametrize("k", [0, 1, 7])
def test_all_or_nothing(k: int) -> None:
    scores = {"a": torch.arange(7, dtype=torch.int32), "empty": torch.zeros(0, dtype=torch.int32)}
    chosen = take_largest(scores.__getitem__, ["a", "empty"], k, seed=0)
    assert int(chosen["a"].sum()) == k and chosen["empty"].shape == (0,)
    assert chosen["a"].tolist() == [index >= 7 - k for index in range(7)]
