"""Reverse KL on the tokens that the student itself finds most likely."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sparseopd.distill.objectives.predictions import Predictions, Scores, TokenLoss, Tokens
from sparseopd.distill.objectives.support import coarsen, kl, mass
from sparseopd.errors import RequestError
from sparseopd.recipe import Objective
from sparseopd.settings.objective import Outside


def student_top_k(
    student: Predictions, teacher: Scores, tokens: Tokens, settings: Objective
) -> TokenLoss:
    """Return the reverse KL over the student's `settings.k` most likely tokens (PAPER.md §2).

    The choice of tokens has no gradient. Needs a teacher that scores any token. `kl` is estimated from
    the sampled token, one more column of the same pass. `extra` has "mass", the student's probability
    of the support.
    """
    assert settings.k is not None and settings.outside is not None  # the recipe fills both
    found = student.scored(tokens.ids[:, None], settings.k)
    ours, theirs = found.log_probs, teacher.log_probs_at(found.ids).detach().to(found.ids.device)
    loss = reverse_kl_on_support(ours[:, 1:], theirs[:, 1:], settings.outside)
    inside = mass(ours[:, 1:].detach())
    return TokenLoss(loss, found.entropy, (ours.detach() - theirs)[:, 0], {"mass": inside})


def reverse_kl_on_support(
    student: Float[Tensor, "n k"], teacher: Float[Tensor, "n k"], outside: Outside
) -> Float[Tensor, "n"]:
    """Return KL(student ‖ teacher) over k tokens of which both log-probabilities are given.

    "renormalise" compares the two within the support; "bucket" is a lower bound of the full KL, and
    equal to it at k = v. The plain sum Σ p_S (log p_S - log p_T) over the support is refused by a
    `RequestError`: each of its terms is least, and below zero, at p_S = p_T / e, so the student lowers
    it by moving probability out of the support, where nothing is counted, and collapses at small k.
    """
    if outside == "ignore":
        raise RequestError(
            "objective.outside=ignore makes a reverse KL over the student's top k biased: the student "
            "lowers it by moving probability out of the support; use renormalise or bucket"
        )
    return kl(coarsen(student, outside), coarsen(teacher, outside))
