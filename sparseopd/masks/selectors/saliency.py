"""The coordinates that the optimizer found most worth moving."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sparseopd.masks.comparison import Comparison
from sparseopd.masks.stream import Piece
from sparseopd.selection import Selection


def saliency(comparison: Comparison, selection: Selection) -> Callable[[Piece], Tensor]:
    """Score by the tensors given in place of a tuned model, as they are, in absolute value.

    `discover` with this selector writes them (Σ|g|, or |m|/√v of Adam) to `saliency/` in its run
    folder; any folder of safetensors with the base's names and shapes will do.
    """

    def score(piece: Piece) -> Tensor:
        return comparison.after(piece).float().abs()

    return score
