"""Random coordinates: the control every mask must beat."""

from __future__ import annotations

from torch import Tensor

from sparseopd.masks.comparison import Comparison
from sparseopd.masks.ranking import random_scores, take_largest


def random(comparison: Comparison, *, density: float, seed: int) -> dict[str, Tensor]:
    """Choose exactly round(density · n) coordinates uniformly. Returns bool (numel,) by name."""

    def scores(name: str) -> Tensor:
        return random_scores(name, comparison.shapes[name].numel(), seed)

    return take_largest(scores, comparison.names, round(density * comparison.numel), seed)


def random_like(comparison: Comparison, *, counts: dict[str, int], seed: int) -> dict[str, Tensor]:
    """Choose `counts[name]` coordinates uniformly within each tensor: matched to another mask."""
    chosen = {}
    for name in comparison.names:
        scores = random_scores(name, comparison.shapes[name].numel(), seed)
        chosen |= take_largest(lambda _, fixed=scores: fixed, [name], counts.get(name, 0), seed)
    return chosen
