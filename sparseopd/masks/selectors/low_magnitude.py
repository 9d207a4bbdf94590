"""The coordinates where the base is nearest to zero. Data-free."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sparseopd.masks.comparison import Comparison
from sparseopd.masks.selectors.order import smallest_first
from sparseopd.masks.stream import Piece
from sparseopd.selection import Selection


def low_magnitude(comparison: Comparison, selection: Selection) -> Callable[[Piece], Tensor]:
    """Score so that the smallest |W| come first (PAPER.md §3: the low-magnitude mask)."""
    return lambda piece: smallest_first(comparison.weight(piece))
