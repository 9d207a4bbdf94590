"""The top-k objectives: the support, what is outside of it, and the traps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor

from sparseopd.distill.objectives import objective_of
from sparseopd.distill.objectives.student_top_k import reverse_kl_on_support, student_top_k
from sparseopd.distill.objectives.support import coarsen, log_outside
from sparseopd.distill.objectives.teacher_top_k import forward_kl_on_support
from sparseopd.errors import RequestError
from sparseopd.recipe import Objective
from tests.distill.objectives.brute_force import (
    V,
    forward_kl,
    fresh,
    log_probs,
    model,
    reverse_kl,
    sampled,
    settings,
)

FULL = {"teacher-top-k": forward_kl, "student-top-k": reverse_kl}


def _random(seed: int, spread: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn((4, V), generator=generator, dtype=torch.float64)
    return logits.log_softmax(1)


@given(st.integers(0, 1000), st.integers(1, V), st.floats(0.1, 6.0))
@examples(max_examples=60, deadline=None)
def test_a_bucket_never_adds_to_the_full_divergence(seed: int, k: int, spread: float) -> None:
    student, teacher = _random(seed, spread), _random(seed + 1, spread)
    for chooser, coarse, full in (
        (teacher, forward_kl_on_support, forward_kl(student, teacher)),
        (student, reverse_kl_on_support, reverse_kl(student, teacher)),
    ):
        ids = chooser.topk(k).indices
        ours, theirs = student.gather(1, ids), teacher.gather(1, ids)
        pair = (theirs, ours) if chooser is teacher else (ours, theirs)
        found = coarse(*pair, "bucket")
        assert (found <= full + 1e-9).all()
        assert (found >= -1e-9).all()


@pytest.mark.parametrize("outside", ["bucket", "renormalise"])
@pytest.mark.parametrize("kind", FULL)
@pytest.mark.parametrize("k", [V, V + 30])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_support_of_the_whole_vocabulary_gives_the_full_divergence(
    kind: str, outside: str, k: int, dtype: torch.dtype
) -> None:
    student, teacher = model(1, "biased", dtype=dtype), model(2, "biased", dtype=dtype)
    found = objective_of(settings(kind, k=k, outside=outside))(student, teacher, sampled())
    expected = FULL[kind](log_probs(student), log_probs(teacher).detach())

    tolerance = {"atol": 2e-5, "rtol": 2e-5, "check_dtype": False}
    torch.testing.assert_close(found.loss, expected, **tolerance)
    torch.testing.assert_close(found.extra["mass"], torch.ones(5), **tolerance)
    (actual,) = torch.autograd.grad(found.loss.sum(), student.hidden)
    (wanted,) = torch.autograd.grad(expected.sum(), student.hidden)
    torch.testing.assert_close(actual, wanted, **tolerance)


def test_the_gradient_is_finite_where_a_peaked_model_leaves_nothing_outside() -> None:
    peaked = torch.tensor([[0.0, -90.0], [-1e-9, -60.0], [1e-7, -50.0]], requires_grad=True)
    assert torch.isfinite(log_outside(peaked)).all()
    for outside in ("bucket", "renormalise"):
        for function in (forward_kl_on_support, reverse_kl_on_support):
            other = torch.tensor([[-0.7, -0.8], [-30.0, -1e-4], [-3.0, -4.0]])
            loss = function(peaked, other, outside) + function(other, peaked, outside)
            (gradient,) = torch.autograd.grad(loss.sum(), peaked)
            assert torch.isfinite(loss).all() and torch.isfinite(gradient).all()


def test_the_bucket_holds_what_is_left() -> None:
    probabilities = torch.tensor([[0.5, 0.25], [0.9, 0.05], [1e-6, 1e-7]], dtype=torch.float64)
    coarse = coarsen(probabilities.log(), "bucket").exp()
    expected = torch.tensor([0.25, 0.05, 1 - 1.1e-6], dtype=torch.float64)
    torch.testing.assert_close(coarse[:, -1], expected)
    torch.testing.assert_close(coarse[:, :-1], probabilities)


@pytest.mark.parametrize(("kind", "chooser"), [("teacher-top-k", 1), ("student-top-k", 0)])
def test_mass_is_what_the_model_that_chose_has_inside(kind: str, chooser: int) -> None:
    models = model(1), model(2)
    found = objective_of(settings(kind, k=2))(*models, sampled())
    expected = log_probs(models[chooser]).exp().topk(2).values.sum(1)
    torch.testing.assert_close(found.extra["mass"], expected.detach())


def test_the_plain_sum_pulls_a_student_away_from_an_equal_teacher_by_the_stated_gradient() -> None:
    logits = _random(0, 1.5).requires_grad_()
    p = logits.detach().exp()
    ids = p.topk(3).indices
    theirs = logits.detach().gather(1, ids)
    loss = forward_kl_on_support(theirs, logits.log_softmax(1).gather(1, ids), "ignore")
    (gradient,) = torch.autograd.grad(loss.sum(), logits)

    mass = theirs.exp().sum(1, keepdim=True)
    inside = torch.zeros_like(p, dtype=torch.bool).scatter(1, ids, True)
    torch.testing.assert_close(gradient, torch.where(inside, p * (mass - 1), p * mass))
    assert gradient.abs().max() > 1e-2


def test_the_plain_sum_is_least_at_the_renormalised_teacher() -> None:
    theirs = torch.tensor([[0.5, 0.3]], dtype=torch.float64).log()
    lowest = forward_kl_on_support(theirs, theirs.log_softmax(1), "ignore")
    torch.testing.assert_close(lowest.item(), 0.8 * math.log(0.8))
    for other in ([0.5, 0.3], [0.6, 0.4], [0.63, 0.37], [0.62, 0.375]):
        ours = torch.tensor([other], dtype=torch.float64).log()
        assert forward_kl_on_support(theirs, ours, "ignore") > lowest


def test_an_unnormalised_reverse_kl_is_refused_and_would_reward_leaving_the_support() -> None:
    ours, theirs = torch.tensor([[0.9, 0.09]]).log(), torch.tensor([[0.9, 0.09]]).log()
    with pytest.raises(RequestError, match="use renormalise or bucket"):
        reverse_kl_on_support(ours, theirs, "ignore")
    unchecked = Objective(kind="student-top-k", k=2, outside="ignore")
    with pytest.raises(RequestError, match="renormalise"):
        student_top_k(model(1), model(2), sampled(), unchecked)

    left = ours - 1  # all but 1 / e of the support's probability moved out
    plain = (left.exp() * (left - theirs)).sum(1)
    assert plain < 0
    for outside in ("bucket", "renormalise"):
        at_teacher = reverse_kl_on_support(ours, theirs, outside)
        assert at_teacher.abs() < 1e-6
        assert reverse_kl_on_support(left, theirs, outside) >= at_teacher - 1e-6


def test_a_teacher_that_names_fewer_tokens_than_asked_for_is_enough() -> None:
    teacher = model(2)

    class Server:
        """Names two tokens, whatever is asked."""

        def top(self, k: int) -> tuple[Tensor, Tensor]:
            return teacher.top(2)

        def log_probs_at(self, ids: Tensor) -> Tensor:
            return teacher.log_probs_at(ids)

    student = model(1)
    served = objective_of(settings("teacher-top-k", k=32))(student, Server(), sampled())
    held = objective_of(settings("teacher-top-k", k=2))(fresh(student), teacher, sampled())
    torch.testing.assert_close(served.loss, held.loss)
    torch.testing.assert_close(served.kl, held.kl)
    torch.testing.assert_close(served.extra, held.extra)
