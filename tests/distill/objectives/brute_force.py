"""The objectives' definitions in float64 over logits held in full, and small random models to try them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparseopd.distill.objectives import Head, Predictions, Tokens
from sparseopd.recipe import Objective
from sparseopd.settings.objective import check_objective

V, H, N = 7, 3, 5
"""Sizes of vocabulary, hidden state and batch."""
HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "biased": {"bias": True},
    "tempered": {"temperature": 0.6},
    "shaped": {"bias": True, "scale": 0.8, "softcap": 3.0, "temperature": 1.7},
}
"""Ways to make logits of hidden states."""


def settings(kind: str, **given: Any) -> Objective:
    """A checked section of a recipe."""
    found = Objective(kind=kind, **given)  # pyright: ignore[reportArgumentType]
    check_objective(found)
    return found


def model(
    seed: int, head: str = "plain", *, n: int = N, v: int = V, dtype: torch.dtype = torch.float64
) -> Predictions:
    """A random model's predictions, whose hidden states, weight and bias require gradients."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        values = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.to(dtype).requires_grad_()

    given = dict(HEADS[head])
    bias = draw(v) if given.pop("bias", False) else None
    return Predictions(draw(n, H), Head(draw(v, H), bias, **given))


def sampled(seed: int = 0, *, n: int = N, v: int = V) -> Tokens:
    """Random tokens."""
    return Tokens(torch.randint(v, (n,), generator=torch.Generator().manual_seed(seed)))


def leaves(found: Predictions) -> list[Tensor]:
    """What can be differentiated in: hidden states, weight, and bias if there is one."""
    return [one for one in (found.hidden, found.head.weight, found.head.bias) if one is not None]


def fresh(found: Predictions, dtype: torch.dtype | None = None) -> Predictions:
    """The same values as new leaves."""

    def leaf(values: Tensor | None) -> Any:
        return None if values is None else values.detach().to(dtype).clone().requires_grad_()

    head = replace(found.head, weight=leaf(found.head.weight), bias=leaf(found.head.bias))
    return Predictions(leaf(found.hidden), head)


def log_probs(found: Predictions) -> Tensor:
    """Log-probabilities (n, v) in float64, of logits held in full."""
    head = found.head
    products = found.hidden.double() @ head.weight.double().t()
    products = products if head.bias is None else products + head.bias.double()
    logits = products * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return torch.log_softmax(logits / head.temperature, dim=1)


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of log-probabilities."""
    return (teacher.exp() * (teacher - student)).sum(1)


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(student ‖ teacher) of log-probabilities."""
    return forward_kl(teacher, student)


def jsd(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """The generalized Jensen-Shannon divergence."""
    mixture = (beta * teacher.exp() + (1 - beta) * student.exp()).log()
    return beta * forward_kl(mixture, teacher) + (1 - beta) * forward_kl(mixture, student)


def on_top(chooser: Tensor, other: Tensor, k: int, outside: str) -> tuple[Tensor, Tensor]:
    """Both distributions on the chooser's k most likely tokens, as log-probabilities."""
    rows: tuple[list[Tensor], list[Tensor]] = ([], [])
    for first, second in zip(chooser.exp(), other.exp(), strict=True):
        support = first.argsort(descending=True)[:k]
        for row, probabilities in zip(rows, (first, second), strict=True):
            inside = probabilities[support]
            if outside == "bucket":
                rest = torch.ones(V, dtype=torch.bool).index_fill(0, support, False)
                inside = torch.cat([inside, probabilities[rest].sum()[None]])
            elif outside == "renormalise":
                inside = inside / inside.sum()
            row.append(inside.log())
    return torch.stack(rows[0]), torch.stack(rows[1])


def _forward_on_top(student: Tensor, teacher: Tensor, k: int, outside: str) -> Tensor:
    theirs, ours = on_top(teacher, student, k, outside)
    return forward_kl(ours, theirs)


def _reverse_on_top(student: Tensor, teacher: Tensor, k: int, outside: str) -> Tensor:
    ours, theirs = on_top(student, teacher, k, outside)
    return reverse_kl(ours, theirs)


def _cases() -> dict[str, tuple[Objective, Callable[[Tensor, Tensor], Tensor]]]:
    cases: dict[str, tuple[Objective, Callable[[Tensor, Tensor], Tensor]]] = {
        "reverse-kl": (settings("reverse-kl"), reverse_kl),
        "forward-kl": (settings("forward-kl"), forward_kl),
    }
    for beta in (0.1, 0.5, 0.9):
        cases[f"jsd {beta}"] = (
            settings("jsd", beta=beta),
            lambda student, teacher, beta=beta: jsd(student, teacher, beta),
        )
    for kind, outsides, function in (
        ("teacher-top-k", ("bucket", "renormalise", "ignore"), _forward_on_top),
        ("student-top-k", ("bucket", "renormalise"), _reverse_on_top),
    ):
        for outside in outsides:
            for k in (1, 3):
                cases[f"{kind} {outside} {k}"] = (
                    settings(kind, k=k, outside=outside),
                    lambda student, teacher, f=function, k=k, o=outside: f(student, teacher, k, o),
                )
    return cases


DIVERGENCES = _cases()
"""Every objective that is a divergence of two distributions: its settings, and its definition."""
