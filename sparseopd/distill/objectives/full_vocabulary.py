"""What the divergences over the whole vocabulary share: TRL's chunked function.

All three are its generalized Jensen-Shannon interpolation (GKD, arXiv 2306.13649): β = 0 is the forward
KL(teacher ‖ student), β = 1 the reverse KL(student ‖ teacher), anything between is JSD(β).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

from sparseopd.distill.objectives.predictions import Predictions, Scores, TokenLoss, Tokens
from sparseopd.errors import RequestError

FORWARD, REVERSE = 0.0, 1.0


def divergence(
    student: Predictions, teacher: Scores, beta: float
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Return the divergence of each token and the student's entropy, in nats, fp32.

    The gradient of the first goes to the student alone; the second has none. Calls
    `ChunkedDivergenceFunction`, read from trl 1.16, as `DistillationTrainer` does, so that a run of
    ours equals one of TRL's. Raises `RequestError` for a teacher that does not score the whole
    vocabulary, `ValueError` if the two temperatures differ.
    """
    if not isinstance(teacher, Predictions):
        raise RequestError(
            "a divergence over the whole vocabulary needs the teacher's probability of every token and a "
            "server names only the most likely: set objective.kind to teacher-top-k or sampled-token"
        )
    ours, theirs = student.gathered().head, teacher.gathered().head
    if ours.temperature != theirs.temperature:
        raise ValueError(
            "student and teacher are compared at one temperature, not at "
            f"{ours.temperature} and {theirs.temperature}"
        )
    return ChunkedDivergenceFunction.apply(  # pyright: ignore[reportReturnType]
        student.hidden,
        ours.weight,
        ours.bias,
        teacher.hidden,
        theirs.weight,
        theirs.bias,
        beta,
        ours.temperature,
        ours.scale,
        ours.softcap,
        theirs.scale,
        theirs.softcap,
    )


def with_sampled_kl(
    student: Predictions, teacher: Scores, tokens: Tokens, beta: float
) -> TokenLoss:
    """Return a divergence whose `kl` is estimated from the sampled tokens, at one more pass of each model."""
    student = student.gathered()
    teacher = teacher.gathered() if isinstance(teacher, Predictions) else teacher
    loss, entropy = divergence(student, teacher, beta)
    return TokenLoss(loss, entropy, sampled_log_ratio(student, teacher, tokens.ids))


@torch.no_grad()
def sampled_log_ratio(
    student: Predictions, teacher: Scores, ids: Int[Tensor, "n"]
) -> Float[Tensor, "n"]:
    """Return log π_student(y) - log π_teacher(y), whose mean over samples y is KL(student ‖ teacher)."""
    ours, theirs = (scores.log_probs_at(ids[:, None]) for scores in (student, teacher))
    return (ours - theirs).squeeze(1)
