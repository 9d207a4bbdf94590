"""KL(student ‖ teacher) over the whole vocabulary: the student drops what the teacher finds unlikely."""

from __future__ import annotations

from sparseopd.distill.objectives.full_vocabulary import REVERSE, divergence
from sparseopd.distill.objectives.predictions import Predictions, Scores, TokenLoss, Tokens
from sparseopd.recipe import Objective


def reverse_kl(
    student: Predictions, teacher: Scores, tokens: Tokens, settings: Objective
) -> TokenLoss:
    """Return Σ_v p_S (log p_S - log p_T) of each token, which is its `kl` too (PAPER.md §2).

    Needs both models' heads; which token was sampled plays no part.
    """
    loss, entropy = divergence(student, teacher, REVERSE)
    return TokenLoss(loss, entropy, loss.detach())
