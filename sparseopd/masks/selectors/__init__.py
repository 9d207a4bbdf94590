"""The selectors, one small file each: which coordinates are worth training?

    SCORES[name](comparison, selection) → score(piece)    ranked, exactly k are taken
    RULES[name](comparison, selection)  → rule(piece)     all that fit are taken

A score gives float32 ≥ 0 for every coordinate of a piece, a rule booleans; both run on several
threads at once. `drawn.py` holds the random masks that are drawn like another mask.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sparseopd.masks.comparison import Comparison
from sparseopd.masks.selectors.changed import changed
from sparseopd.masks.selectors.low_magnitude import low_magnitude
from sparseopd.masks.selectors.off_principal import off_principal
from sparseopd.masks.selectors.off_principal_or_low import off_principal_or_low
from sparseopd.masks.selectors.principal import principal
from sparseopd.masks.selectors.random import random
from sparseopd.masks.selectors.saliency import saliency
from sparseopd.masks.selectors.threshold import threshold
from sparseopd.masks.selectors.topk import topk
from sparseopd.masks.selectors.topk_relative import topk_relative
from sparseopd.masks.stream import Piece
from sparseopd.selection import Selection

Selector = Callable[[Comparison, Selection], Callable[[Piece], Tensor]]

SCORES: dict[str, Selector] = {
    "topk": topk,
    "topk-per-tensor": topk,
    "topk-relative": topk_relative,
    "low-magnitude": low_magnitude,
    "principal": principal,
    "off-principal": off_principal,
    "off-principal-or-low": off_principal_or_low,
    "saliency": saliency,
    "random": random,
}
RULES: dict[str, Selector] = {"threshold": threshold, "changed": changed}
MATRICES = ("principal", "off-principal", "off-principal-or-low")
"""Selectors that need singular vectors, and so choose from matrices alone."""

__all__ = ["MATRICES", "RULES", "SCORES", "Selector"]
