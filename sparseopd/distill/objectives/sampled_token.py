"""The policy gradient of reverse KL from the sampled tokens alone, known as k1."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparseopd.distill.objectives.predictions import Predictions, Scores, TokenLoss, Tokens
from sparseopd.recipe import Objective


class Surrogate(NamedTuple):
    """What `policy_gradient` finds at n tokens."""

    loss: Float[Tensor, "n"]
    """Differentiable in the new log-probabilities alone."""
    ratio: Float[Tensor, "n"]
    """exp(new - old)."""
    clipped: Bool[Tensor, "n"]
    """Where the clip is what counts, so that the token has no gradient."""
    clamped: Bool[Tensor, "n"]
    """Where the log-ratio to the teacher exceeded its bound."""


def sampled_token(
    student: Predictions, teacher: Scores, tokens: Tokens, settings: Objective
) -> TokenLoss:
    """Return the clipped surrogate whose gradient estimates that of KL(student ‖ teacher) (PAPER.md §2).

    A server's scores are enough. The rest of the vocabulary plays no part but in the entropy. `extra` has
    "ratio", and "clipped" and "clamped" as shares of tokens.
    """
    assert settings.clip is not None and settings.max_log_ratio is not None  # the recipe fills both
    ids = tokens.ids[:, None]
    new, entropy = (found.squeeze(-1) for found in student.scored_at(ids))
    theirs = teacher.log_probs_at(ids).detach().squeeze(1)
    old = new.detach() if tokens.old_log_probs is None else tokens.old_log_probs
    found = policy_gradient(
        new, old, theirs, clip=settings.clip, max_log_ratio=settings.max_log_ratio
    )
    extra = {
        "ratio": found.ratio,
        "clipped": found.clipped.to(new.dtype),
        "clamped": found.clamped.to(new.dtype),
    }
    return TokenLoss(found.loss, entropy, new.detach() - theirs, extra)


def policy_gradient(
    new: Float[Tensor, "n"],
    old: Float[Tensor, "n"],
    teacher: Float[Tensor, "n"],
    *,
    clip: float,
    max_log_ratio: float,
) -> Surrogate:
    """Return -min(r·A, clip(r, 1 ± clip)·A) with r = exp(new - old) and A = -(old - teacher), fixed.

    All are log-probabilities of the sampled tokens: of the student now, of the student that sampled them
    and of the teacher. At r = 1 the gradient is (log π_S - log π_T)·∇log π_S, whose mean over the
    student's samples is ∇KL(student ‖ teacher). The log-ratio itself would not do as a loss: the mean of
    its gradient ∇log π_S is zero, and the teacher has no part in it.
    """
    log_ratio = (old - teacher).detach()
    advantage = -log_ratio.clamp(-max_log_ratio, max_log_ratio)
    ratio = (new - old.detach()).exp()
    free, held = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
    return Surrogate(
        -torch.minimum(free, held),
        ratio.detach(),
        held.detach() < free.detach(),
        log_ratio.abs() > max_log_ratio,
    )
