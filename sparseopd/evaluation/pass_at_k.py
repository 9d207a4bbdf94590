"""pass@k: the chance that at least one of k samples is right."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import comb


def pass_at_k(correct: Bool[np.ndarray, "s p n"], k: int) -> Float[np.ndarray, "s p"]:
    """Return the unbiased estimate 1 - C(n - c, k) / C(n, k) of each prompt, of whose n samples c are right.

    k = 1 is the mean accuracy. Source: Chen et al. 2021, arXiv 2107.03374, equation 1.

    Raises `ValueError` unless 1 ≤ k ≤ n.
    """
    samples = correct.shape[-1]
    if not 1 <= k <= samples:
        raise ValueError(f"k is {k}, and there are {samples} samples: give 1 to {samples}")
    wrong = samples - correct.sum(axis=-1)
    return np.asarray(1.0 - comb(wrong, k) / comb(samples, k))
