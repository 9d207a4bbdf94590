"""The divergences of a recipe in terms of TRL's generalized Jensen-Shannon interpolation.

TRL computes them over the full vocabulary in chunks (GKD, arXiv 2306.13649): β = 0 is the forward
KL(teacher ‖ student), β = 1 the reverse KL(student ‖ teacher), anything between is JSD(β).
"""

from __future__ import annotations

from sparseopd.recipe import Objective

BETA = {"forward-kl": 0.0, "reverse-kl": 1.0}


def beta(objective: Objective) -> float:
    """Return TRL's β for an objective; `objective.beta` is set for `jsd` by the recipe."""
    return BETA[objective.kind] if objective.beta is None else objective.beta
