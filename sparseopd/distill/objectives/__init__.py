"""The objectives, one small file each: what does the student minimise at a token?

    student = Predictions(student_hidden, Head(student_weight))      (n, h) and (v, h)
    teacher = Predictions(teacher_hidden, Head(teacher_weight))      or any other Scores
    objective = objective_of(recipe.objective)
    loss, entropy, kl, extra = objective(student, teacher, Tokens(sampled))      (n,) each
    weight, total = weights(mask, recipe.objective.reduction)
    (loss * weight[mask]).sum().div(total).backward()

They are pure, know only tokens that count, and never hold the logits of all tokens. Nothing is
divided, logged or gathered from other processes here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from sparseopd.distill.objectives.forward_kl import forward_kl
from sparseopd.distill.objectives.jsd import jsd
from sparseopd.distill.objectives.predictions import Head, Predictions, Scores, TokenLoss, Tokens
from sparseopd.distill.objectives.reduction import shares, weights
from sparseopd.distill.objectives.reverse_kl import reverse_kl
from sparseopd.distill.objectives.sampled_token import sampled_token
from sparseopd.distill.objectives.student_top_k import student_top_k
from sparseopd.distill.objectives.teacher_top_k import teacher_top_k
from sparseopd.errors import RequestError
from sparseopd.recipe import Objective as Settings

Objective = Callable[[Predictions, Scores, Tokens], TokenLoss]
"""An objective whose settings are bound."""


class Unbound(Protocol):
    """An objective as its file defines it."""

    def __call__(
        self, student: Predictions, teacher: Scores, tokens: Tokens, settings: Settings
    ) -> TokenLoss: ...


OBJECTIVES: dict[str, Unbound] = {
    "reverse-kl": reverse_kl,
    "forward-kl": forward_kl,
    "jsd": jsd,
    "teacher-top-k": teacher_top_k,
    "student-top-k": student_top_k,
    "sampled-token": sampled_token,
}
"""The kinds that distil on the student's own completions."""


def objective_of(settings: Settings) -> Objective:
    """Return the objective of a checked recipe's section. Raises `RequestError` for a contrast's kind."""
    if settings.kind not in OBJECTIVES:
        raise RequestError(
            f"objective.kind={settings.kind} is no on-policy objective: choose one of "
            f"{', '.join(OBJECTIVES)}"
        )
    return partial(OBJECTIVES[settings.kind], settings=settings)


__all__ = [
    "OBJECTIVES",
    "Head",
    "Objective",
    "Predictions",
    "Scores",
    "TokenLoss",
    "Tokens",
    "objective_of",
    "shares",
    "weights",
]
