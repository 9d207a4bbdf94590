"""Forward KL on the tokens that the teacher finds most likely; k = 32 is the paper's vision setting."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sparseopd.distill.objectives.predictions import (
    Predictions,
    Scores,
    TokenLoss,
    Tokens,
    top_and_sampled,
)
from sparseopd.distill.objectives.support import coarsen, kl, mass
from sparseopd.recipe import Objective
from sparseopd.settings.objective import Outside


def teacher_top_k(
    student: Predictions, teacher: Scores, tokens: Tokens, settings: Objective
) -> TokenLoss:
    """Return the forward KL over the teacher's `settings.k` most likely tokens (PAPER.md §2).

    A server's scores are enough. `kl` is estimated from the sampled token, one more column of the same
    pass. `extra` has "mass", the teacher's probability of the support.
    """
    assert settings.k is not None and settings.outside is not None  # the recipe fills both
    ids, theirs, theirs_sampled = top_and_sampled(teacher, settings.k, tokens.ids)
    ours, entropy = student.scored_at(torch.cat([tokens.ids[:, None], ids], dim=1))
    loss = forward_kl_on_support(theirs, ours[:, 1:], settings.outside)
    return TokenLoss(loss, entropy, ours[:, 0].detach() - theirs_sampled, {"mass": mass(theirs)})


def forward_kl_on_support(
    teacher: Float[Tensor, "n k"], student: Float[Tensor, "n k"], outside: Outside
) -> Float[Tensor, "n"]:
    """Return KL(teacher ‖ student) over k tokens of which both log-probabilities are given.

    "bucket" is a lower bound of the full KL, and equal to it at k = v; "renormalise" says nothing of how
    much probability the student leaves outside. "ignore" is the plain sum Σ p_T (log p_T - log p_S) over
    the support K. With M = Σ_K p_T its gradient in the student's logits is M·p_S, less p_T on K, so that
    at teacher = student it is p·(M - 1) on K and p·M outside: not zero. It is least where the student
    has p_T / M on K and nothing elsewhere, and its value there is M·log M, below zero.
    """
    if outside == "ignore":
        return kl(teacher, student)
    return kl(coarsen(teacher, outside), coarsen(student, outside))
