"""How much each token counts, by hand."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from sparseopd.distill.objectives import shares, weights

MASK = torch.tensor(
    [[True, True, True, True], [True, True, False, False], [False] * 4, [True, False, False, False]]
)


def test_token_mean_weighs_every_token_by_one() -> None:
    weight, total = weights(MASK, "token-mean")
    assert weight.dtype == total.dtype == torch.float32
    assert weight.tolist() == MASK.float().tolist()
    assert total.shape == () and total.item() == 7


def test_sequence_mean_weighs_every_completion_by_one() -> None:
    weight, total = weights(MASK, "sequence-mean")
    assert weight.dtype == total.dtype == torch.float32
    assert weight.tolist() == [[0.25] * 4, [0.5, 0.5, 0, 0], [0.0] * 4, [1.0, 0, 0, 0]]
    assert total.item() == 3  # the row without tokens is no completion


@pytest.mark.parametrize(("reduction", "mean"), [("token-mean", 18 / 7), ("sequence-mean", 3.0)])
def test_a_loss_is_the_weighted_sum_over_the_total(
    reduction: Literal["token-mean", "sequence-mean"], mean: float
) -> None:
    losses = torch.tensor([[1.0, 2, 3, 4], [2, 1, 9, 9], [9, 9, 9, 9], [5, 9, 9, 9]])
    weight, total = weights(MASK, reduction)
    # (1 + 2 + 3 + 4 + 2 + 1 + 5) / 7, and (2.5 + 1.5 + 5) / 3
    assert ((losses * weight).sum() / total).item() == pytest.approx(mean)


def test_no_tokens_weigh_nothing() -> None:
    for reduction in ("token-mean", "sequence-mean"):
        weight, total = weights(torch.zeros((2, 3), dtype=torch.bool), reduction)
        assert not weight.any() and total.item() == 0


def test_shares_rescale_each_teachers_tokens() -> None:
    weight, _ = weights(MASK, "token-mean")
    # This process holds 4 tokens of the first teacher and 3 of the second, another holds 4 and 1.
    found = shares(
        weight, torch.tensor([0, 1, 1, 1]), torch.tensor([1.0, 3.0]), torch.tensor([8.0, 4.0])
    )
    assert found.tolist() == [[0.375] * 4, [2.25, 2.25, 0, 0], [0.0] * 4, [2.25, 0, 0, 0]]


def test_a_teacher_without_tokens_drops_out() -> None:
    weight, total = weights(MASK, "token-mean")
    found = shares(
        weight,
        torch.tensor([0, 2, 2, 2]),
        torch.tensor([1.0, 8.0, 1.0]),
        torch.tensor([4.0, 0.0, 3.0]),
    )
    assert torch.isfinite(found).all()
    assert found[0].sum().item() == pytest.approx(3.5)
    assert found[1:].sum().item() == pytest.approx(3.5)
    assert found.sum().item() == pytest.approx(total.item())


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=12),
    st.tuples(*[st.floats(0.05, 20.0)] * 3),
    st.sampled_from(["token-mean", "sequence-mean"]),
)
@examples(max_examples=60, deadline=None)
def test_shares_are_met_whatever_the_rows_and_the_total_stays(
    rows: list[tuple[int, int]],
    wanted: tuple[float, ...],
    reduction: Literal["token-mean", "sequence-mean"],
) -> None:
    lengths, teachers = (torch.tensor(column) for column in zip(*rows, strict=True))
    weight, total = weights(torch.arange(5) < lengths[:, None], reduction)
    sums = torch.zeros(3).index_add(0, teachers, weight.sum(1))
    found = shares(weight, teachers, torch.tensor(wanted), sums)

    present = sums > 0
    goal = torch.tensor(wanted) * present
    goal = goal / goal.sum() * total if present.any() else torch.zeros(3)
    actual = torch.zeros(3).index_add(0, teachers, found.sum(1))
    torch.testing.assert_close(actual, goal, atol=1e-5, rtol=1e-4)
