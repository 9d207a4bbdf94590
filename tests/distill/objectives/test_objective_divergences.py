"""Every objective against its definition in float64, and what a divergence must satisfy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sparseopd.distill.objectives import OBJECTIVES, Tokens, objective_of, tiles
from sparseopd.errors import RequestError
from sparseopd.recipe import Objective
from tests.distill.objectives.brute_force import (
    DIVERGENCES,
    HEADS,
    N,
    fresh,
    leaves,
    log_probs,
    model,
    sampled,
    settings,
)

ALL: dict[str, Objective] = {name: case[0] for name, case in DIVERGENCES.items()} | {
    "sampled-token": settings("sampled-token")
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let these few tokens and this small vocabulary fall into several tiles."""
    monkeypatch.setattr(tiles, "CPU_TILE", (2, 3))


def _gradients(loss: Tensor, found: Any) -> list[Tensor]:
    return list(torch.autograd.grad(loss.sum(), leaves(found)))


def _sampled_log_ratio(student: Tensor, teacher: Tensor, tokens: Tokens) -> Tensor:
    return (student - teacher).gather(1, tokens.ids[:, None]).squeeze(1)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", DIVERGENCES)
def test_values_and_gradients_are_those_of_the_definition(name: str, head: str) -> None:
    given, definition = DIVERGENCES[name]
    student, teacher, tokens = model(1, head), model(2, head), sampled()
    # TRL's function computes in float32 whatever it is given.
    tolerance = (
        {"atol": 2e-5, "rtol": 2e-5} if given.kind in ("reverse-kl", "forward-kl", "jsd") else {}
    )

    found = objective_of(given)(student, teacher, tokens)

    ours, theirs = log_probs(student), log_probs(teacher).detach()
    expected = definition(ours, theirs)
    torch.testing.assert_close(found.loss, expected, check_dtype=False, **tolerance)
    for actual, wanted in zip(
        _gradients(found.loss, student), _gradients(expected, student), strict=True
    ):
        torch.testing.assert_close(actual, wanted, **tolerance)
    torch.testing.assert_close(
        found.entropy, -(ours.exp() * ours).sum(1).detach(), check_dtype=False, **tolerance
    )
    exact = given.kind == "reverse-kl"
    kl = expected if exact else _sampled_log_ratio(ours, theirs, tokens)
    torch.testing.assert_close(found.kl, kl.detach(), check_dtype=False, **tolerance)


@pytest.mark.parametrize("name", ALL)
def test_only_the_loss_has_a_gradient_and_only_to_the_student(name: str) -> None:
    student, teacher = model(1, "biased"), model(2, "biased")
    found = objective_of(ALL[name])(student, teacher, sampled())

    assert found.loss.requires_grad
    figures = [found.entropy, found.kl, *found.extra.values()]
    assert not any(figure.requires_grad for figure in figures)
    assert all(figure.shape == (N,) for figure in [found.loss, *figures])
    found.loss.sum().backward()
    assert all(leaf.grad is None for leaf in leaves(teacher))
    assert all(leaf.grad is not None for leaf in leaves(student))


@pytest.mark.parametrize("name", [name for name in ALL if "ignore" not in name])
def test_a_student_equal_to_its_teacher_has_neither_loss_nor_gradient(name: str) -> None:
    student = model(1, "shaped")
    found = objective_of(ALL[name])(student, fresh(student), sampled())

    torch.testing.assert_close(found.loss, torch.zeros_like(found.loss), atol=2e-6, rtol=0)
    torch.testing.assert_close(found.kl, torch.zeros_like(found.kl), atol=2e-6, rtol=0)
    for gradient in _gradients(found.loss, student):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=5e-6, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_no_tokens_give_no_losses_and_a_gradient_of_zero(name: str) -> None:
    student, teacher = model(1, "biased", n=0), model(2, "biased", n=0)
    found = objective_of(ALL[name])(student, teacher, sampled(n=0))

    assert found.loss.shape == found.entropy.shape == found.kl.shape == (0,)
    found.loss.sum().backward()
    assert not any(leaf.grad is not None and bool(leaf.grad.any()) for leaf in leaves(student))


@pytest.mark.parametrize("name", ALL)
def test_bf16_models_are_compared_in_float32(name: str) -> None:
    student, teacher = (model(seed, "biased", dtype=torch.bfloat16) for seed in (1, 2))
    found = objective_of(ALL[name])(student, teacher, sampled())
    exact = objective_of(ALL[name])(
        fresh(student, torch.float64), fresh(teacher, torch.float64), sampled()
    )

    assert found.loss.dtype == found.entropy.dtype == torch.float32
    # A bucket that is nearly empty is 1 minus a sum rounded to float32.
    torch.testing.assert_close(found.loss, exact.loss, check_dtype=False, atol=2e-4, rtol=2e-4)
    for gradient in _gradients(found.loss, student):
        assert gradient.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "name", [name for name in ALL if name not in ("reverse-kl", "forward-kl") and "jsd" not in name]
)
def test_no_tensor_is_as_large_as_tokens_times_vocabulary(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "CPU_TILE", (8, 16))
    n, v = 64, 96
    student, teacher = (model(seed, n=n, v=v) for seed in (1, 2))
    with _Largest() as largest:
        objective_of(ALL[name])(student, teacher, sampled(n=n, v=v)).loss.sum().backward()
    assert n * 3 <= largest.numel < n * v / 4


def test_a_server_cannot_be_asked_for_a_divergence_over_the_whole_vocabulary() -> None:
    class Server:
        def top(self, k: int) -> Any: ...
        def log_probs_at(self, ids: Tensor) -> Any: ...

    for kind in ("reverse-kl", "forward-kl", "jsd"):
        with pytest.raises(RequestError, match="teacher-top-k or sampled-token"):
            objective_of(settings(kind))(model(1), Server(), sampled())


def test_two_temperatures_are_refused() -> None:
    teacher = model(2)
    teacher = replace(teacher, head=replace(teacher.head, temperature=0.5))
    with pytest.raises(ValueError, match=r"1.0 and 0.5"):
        objective_of(settings("reverse-kl"))(model(1), teacher, sampled())


def test_each_on_policy_kind_has_an_objective_and_the_contrasts_have_none() -> None:
    assert set(OBJECTIVES) == {given.kind for given in ALL.values()}
    for kind in ("offline-kd", "sft", "grpo"):
        with pytest.raises(RequestError, match=kind):
            objective_of(settings(kind))


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(one, Tensor):
                self.numel = max(self.numel, one.numel())
        return found
