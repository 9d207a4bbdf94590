"""The policy gradient from sampled tokens: unbiased, clipped and clamped as said."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sparseopd.distill.objectives import Predictions, Tokens, objective_of
from sparseopd.distill.objectives.sampled_token import policy_gradient
from tests.distill.objectives.brute_force import (
    HEADS,
    V,
    fresh,
    leaves,
    log_probs,
    model,
    reverse_kl,
    sampled,
    settings,
)


def _each_token(found: Predictions) -> tuple[Predictions, Tokens]:
    """The predictions of one token, once for every token of the vocabulary that might be sampled."""
    return replace(found, hidden=found.hidden.expand(V, -1)), Tokens(torch.arange(V))


@pytest.mark.parametrize("head", HEADS)
def test_the_expected_gradient_is_that_of_reverse_kl(head: str) -> None:
    student, teacher = model(1, head, n=1), model(2, head, n=1)
    everywhere, tokens = _each_token(student)
    objective = objective_of(settings("sampled-token", max_log_ratio=1e6))
    found = objective(everywhere, _each_token(teacher)[0], tokens)
    probabilities = log_probs(student).detach().exp().squeeze(0)
    expected = torch.autograd.grad((probabilities * found.loss).sum(), leaves(student))

    kl = reverse_kl(log_probs(student), log_probs(teacher).detach()).sum()
    exact = torch.autograd.grad(kl, leaves(student))
    for actual, wanted in zip(expected, exact, strict=True):
        torch.testing.assert_close(actual, wanted, atol=1e-10, rtol=1e-10)
        assert wanted.abs().max() > 1e-2
    torch.testing.assert_close((probabilities * found.kl).sum(), kl.detach())


def test_backpropagating_the_log_ratio_itself_teaches_nothing() -> None:
    student, teacher = model(1, n=1), model(2, n=1)
    ours, theirs = log_probs(student), log_probs(teacher).detach()
    naive = (ours.detach().exp() * (ours - theirs)).sum()
    for gradient in torch.autograd.grad(naive, leaves(student)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


def _surrogate(
    log_ratio: float, moved: float, bound: float = 5.0
) -> tuple[dict[str, float], float]:
    """One token: log π_old - log π_T, and log π_new - log π_old; clip 0.2. And ∂loss/∂log π_new."""
    old = torch.tensor([-1.0], dtype=torch.float64)
    new = (old + moved).requires_grad_()
    found = policy_gradient(new, old, old - log_ratio, clip=0.2, max_log_ratio=bound)
    (gradient,) = torch.autograd.grad(found.loss.sum(), new)
    return {name: value.item() for name, value in found._asdict().items()}, gradient.item()


@pytest.mark.parametrize(
    ("log_ratio", "ratio", "loss", "gradient", "clipped"),
    [
        (-2.0, 1.0, -2.0, -2.0, False),  # A = 2: raise this token
        (-2.0, 1.1, -2.2, -2.2, False),
        (-2.0, 1.5, -2.4, 0.0, True),  # raised far enough
        (-2.0, 0.5, -1.0, -1.0, False),  # lowered though it should rise: the gradient stays
        (3.0, 1.0, 3.0, 3.0, False),  # A = -3: lower it
        (3.0, 0.9, 2.7, 2.7, False),
        (3.0, 0.5, 2.4, 0.0, True),  # lowered far enough
        (3.0, 1.5, 4.5, 4.5, False),  # raised though it should fall
    ],
)
def test_the_clip_counts_only_where_a_token_has_moved_far_enough_the_right_way(
    log_ratio: float, ratio: float, loss: float, gradient: float, clipped: bool
) -> None:
    found, actual = _surrogate(log_ratio, math.log(ratio))
    assert found["ratio"] == pytest.approx(ratio)
    assert found["loss"] == pytest.approx(loss)
    assert actual == pytest.approx(gradient)
    assert found["clipped"] == clipped


@pytest.mark.parametrize(
    ("log_ratio", "loss"), [(9.0, 4.0), (-9.0, -4.0), (4.0, 4.0), (-3.0, -3.0)]
)
def test_the_log_ratio_is_clamped_on_both_sides(log_ratio: float, loss: float) -> None:
    found, gradient = _surrogate(log_ratio, 0.0, bound=4.0)
    assert found["loss"] == gradient == pytest.approx(loss)
    assert found["clamped"] == (abs(log_ratio) > 4.0)


def test_old_log_probs_are_the_samplers_and_kl_is_never_clamped() -> None:
    student, teacher, tokens = model(1), model(2), sampled()
    ours, theirs = (
        one.log_probs_at(tokens.ids[:, None]).detach().squeeze(1) for one in (student, teacher)
    )
    old = ours - torch.tensor([0.0, 0.1, -0.5, 0.5, 0.15], dtype=torch.float64)
    objective = objective_of(settings("sampled-token", clip=0.2, max_log_ratio=0.5))
    found = objective(student, teacher, Tokens(tokens.ids, old))

    torch.testing.assert_close(found.extra["ratio"], (ours - old).exp())
    torch.testing.assert_close(found.kl, ours - theirs)
    assert found.kl.abs().max() > 0.5
    advantage = -(old - theirs).clamp(-0.5, 0.5)
    ratio = (ours - old).exp()
    expected = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    torch.testing.assert_close(found.loss.detach(), expected)
    assert found.extra["clamped"].tolist() == ((old - theirs).abs() > 0.5).double().tolist()


def test_without_old_log_probs_the_ratio_is_one_and_nothing_is_clipped() -> None:
    found = objective_of(settings("sampled-token"))(model(1), fresh(model(2)), sampled())
    ones: Tensor = torch.ones(5, dtype=torch.float64)
    torch.testing.assert_close(found.extra["ratio"], ones, atol=0, rtol=0)
    assert not found.extra["clipped"].any()
