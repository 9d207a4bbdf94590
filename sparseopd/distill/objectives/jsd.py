"""The generalized Jensen-Shannon divergence over the whole vocabulary, between the two KLs."""

from __future__ import annotations

from sparseopd.distill.objectives.full_vocabulary import with_sampled_kl
from sparseopd.distill.objectives.predictions import Predictions, Scores, TokenLoss, Tokens
from sparseopd.recipe import Objective


def jsd(student: Predictions, teacher: Scores, tokens: Tokens, settings: Objective) -> TokenLoss:
    """Return β·KL(p_T ‖ m) + (1 - β)·KL(p_S ‖ m), m = β·p_T + (1 - β)·p_S (PAPER.md §2).

    β = `settings.beta`; at 0 and 1, TRL's function switches to the forward and the reverse KL, which
    are what this tends to once divided by β or 1 - β (GKD, arXiv 2306.13649). Needs both models' heads.
    """
    assert settings.beta is not None  # the recipe fills it
    return with_sampled_kl(student, teacher, tokens, settings.beta)
