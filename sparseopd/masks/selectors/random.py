"""Random coordinates: the control every mask must beat. Data-free."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparseopd.masks.comparison import Comparison
from sparseopd.masks.keys import uniform
from sparseopd.masks.stream import Piece
from sparseopd.selection import Selection


def random(comparison: Comparison, selection: Selection) -> Callable[[Piece], Tensor]:
    """Score uniformly at random, by seed, name and position alone."""
    return lambda piece: torch.from_numpy(
        uniform("random", piece.name, piece.start, piece.stop, comparison.seed)
    )
