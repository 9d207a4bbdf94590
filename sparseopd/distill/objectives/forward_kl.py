"""KL(teacher ‖ student) over the whole vocabulary: the student covers all that the teacher might say."""

from __future__ import annotations

from sparseopd.distill.objectives.full_vocabulary import FORWARD, with_sampled_kl
from sparseopd.distill.objectives.predictions import Predictions, Scores, TokenLoss, Tokens
from sparseopd.recipe import Objective


def forward_kl(
    student: Predictions, teacher: Scores, tokens: Tokens, settings: Objective
) -> TokenLoss:
    """Return Σ_v p_T (log p_T - log p_S) of each token (PAPER.md §2).

    Needs both models' heads; the sampled tokens serve the `kl` alone.
    """
    return with_sampled_kl(student, teacher, tokens, FORWARD)
