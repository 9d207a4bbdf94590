"""What the top-k objectives share: distributions over a few tokens, and what becomes of the others."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


def coarsen(
    log_probs: Float[Tensor, "n k"], outside: Literal["bucket", "renormalise"]
) -> Float[Tensor, "n j"]:
    """Make a distribution of the k tokens of a support, as log-probabilities.

    bucket: one more token holds the probability outside, j = k + 1; the KL of two distributions
    coarsened so is at most the full one. renormalise: the support is all there is, j = k.
    """
    if outside == "renormalise":
        return log_probs.log_softmax(1)
    return torch.cat([log_probs, log_outside(log_probs)[:, None]], dim=1)


def kl(p: Float[Tensor, "n j"], q: Float[Tensor, "n j"]) -> Float[Tensor, "n"]:
    """Return Σ exp(p)·(p - q) of log-probabilities."""
    return (p.exp() * (p - q)).sum(1)


def mass(log_probs: Float[Tensor, "n k"]) -> Float[Tensor, "n"]:
    """Return the probability inside the support."""
    return log_probs.exp().sum(1)


def log_outside(log_probs: Float[Tensor, "n k"]) -> Float[Tensor, "n"]:
    """Return log(1 - Σ exp(log_probs)), where the sum counts as 1 - ε of its dtype at most.

    So float32 knows less than 10⁻⁷ outside as that, and the gradient is finite everywhere: zero where
    the support holds all there is.
    """
    inside = log_probs.logsumexp(1).clamp(max=-torch.finfo(log_probs.dtype).eps)
    return inside.expm1().neg().log()
