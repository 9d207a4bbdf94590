"""How few directions an update has: its singular values (PAPER.md §3)."""

from __future__ import annotations

import torch

from sparseopd.analysis.values import Values
from sparseopd.singular import Singular

TOP = (1, 2, 4, 8, 16, 32, 64)
TOLERANCES = ("1e-5", "1e-4")
"""Of σ₁: a smaller singular value does not count for the numerical rank."""


def spectrum(values: Values, singular: Singular) -> dict[str, float | None]:
    """Return norms, ranks and energies of Δ's singular values; None throughout where nothing moved.

    The entropy effective rank is exp H(σ/Σσ) (Roy and Vetterli 2007). Ranks that need every σ are None
    where the values are randomized; `spectrum_error` then says how far they may be off, as a share of σ₁.
    """
    names = ["spectral_norm", "stable_rank", "entropy_effective_rank"]
    names += [f"numerical_rank_{name}" for name in TOLERANCES]
    names += [f"svd_energy_top{count}" for count in TOP]
    sigma = singular.values
    if not values.energy or not sigma[0]:
        return dict.fromkeys(names)
    first, energy = float(sigma[0]), values.norm**2
    figures: dict[str, float | None] = dict.fromkeys(names)
    figures |= {"spectral_norm": first, "stable_rank": energy / first**2}
    cumulative = sigma.square().cumsum(0)
    whole = float(cumulative[-1]) if singular.error is None else energy
    for count in TOP:
        figures[f"svd_energy_top{count}"] = float(cumulative[min(count, len(sigma)) - 1]) / whole
    if singular.error is not None:
        return figures | {"spectrum_error": singular.error}
    shares = sigma / sigma.sum()
    figures["entropy_effective_rank"] = float(torch.special.entr(shares).sum().exp())
    for name in TOLERANCES:
        figures[f"numerical_rank_{name}"] = float((sigma > float(name) * first).sum())
    return figures
