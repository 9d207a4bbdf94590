"""Exactly the k coordinates with the largest scores, over tensors read piece by piece, in two passes.

A score is a non-negative float32, whose bit pattern orders like the number itself (IEEE 754). Pass
one counts scores by their upper 16 bits (infinity the largest; anything above it is not a number).
The histogram tells the bin in which the k-th largest score lies. Pass two takes what lies above that
bin and puts what lies in it on a shelf; `edge.py` then decides there, by the lower 15 bits and,
among equal scores, by a hash of the coordinate. No vector over the whole model is ever made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparseopd.errors import MaskError
from sparseopd.masks.bitmap import Bitmap, count_bits
from sparseopd.masks.comparison import Comparison
from sparseopd.masks.edge import Edge, Undecided
from sparseopd.masks.stream import Kept, Piece, Scratch, Shelf, for_each

LOW_BITS = 15
BINS = 1 << (31 - LOW_BITS)
INFINITY = 0x7F800000
"""The bit pattern of float32 infinity."""

Score = Callable[[Piece], Tensor]
"""piece → float32 (numel,), each ≥ 0; called twice for every piece, from several threads."""
_scratch = Scratch()


def count_scores(comparison: Comparison, score: Score, names: Sequence[str]) -> np.ndarray:
    """Pass one: return int64 (BINS,), how many scores have each pattern of their upper 16 bits.

    Raises `MaskError` naming the tensor where a score is not a number.
    """
    counts = np.zeros(BINS, dtype=np.int64)
    for piece, found in for_each(comparison.pieces(names), lambda piece: _count(score, piece)):
        if found is None:
            raise MaskError(
                f"{piece.name} has values that are not numbers (or a difference of infinities) after "
                f"coordinate {piece.start:,}: the checkpoint is damaged"
            )
        counts += found
    return counts


def take_largest(
    comparison: Comparison,
    score: Score,
    names: Sequence[str],
    k: int,
    counts: np.ndarray,
    shelf: Shelf,
) -> Callable[[str], Bitmap]:
    """Pass two: choose the k largest scores of `names`; return name → bitmap.

    `counts` is what `count_scores` made of the same scores; `comparison.seed` breaks ties.
    """
    if not k:
        return lambda name: Bitmap.empty(comparison.shapes[name])
    at_least = np.cumsum(counts[::-1])[::-1]
    edge = int(np.flatnonzero(at_least >= k)[-1])
    needed = k - int(at_least[edge] - counts[edge])
    taken = _Taken(comparison, shelf)
    for piece, found in for_each(
        comparison.pieces(names), lambda piece: _split(score, piece, edge)
    ):
        taken.add(piece, found)
    taken.decide(needed)
    return taken.bitmap


@dataclass(frozen=True)
class _Split:
    """One piece after pass two: what is taken, and what shares the edge bin."""

    above: np.ndarray
    """uint8, packed: scores above the edge bin."""
    positions: np.ndarray
    """uint32: places within the piece of the scores in the edge bin."""
    low: np.ndarray
    """uint16: the lower 15 bits of these."""


class _Taken:
    """What pass two took, by tensor; gives bitmaps once the edge is decided."""

    def __init__(self, comparison: Comparison, shelf: Shelf) -> None:
        self._shapes, self._shelf = comparison.shapes, shelf
        self._above: dict[str, list[Kept]] = {}
        self._edge = Edge(shelf, comparison.seed)

    def add(self, piece: Piece, found: _Split) -> None:
        self._above.setdefault(piece.name, []).append(self._shelf.put(found.above))
        if len(found.positions):
            self._edge.add(Undecided.keep(self._shelf, piece, found.positions, found.low))

    def decide(self, needed: int) -> None:
        self._edge.decide(needed)

    def bitmap(self, name: str) -> Bitmap:
        parts = [self._shelf.get(kept) for kept in self._above.get(name, [])]
        bitmap = Bitmap.join(self._shapes[name], parts)
        for start, chosen in self._edge.taken(name):
            bitmap.bits[start // 8 : start // 8 + len(chosen)] |= chosen
        return bitmap


def _count(score: Score, piece: Piece) -> np.ndarray | None:
    """Histogram one piece; None if a score is not a number."""
    bits = score(piece).view(torch.int32)
    upper = _scratch.take("upper", piece.numel, torch.int32)
    torch.bitwise_right_shift(bits, LOW_BITS, out=upper)
    try:
        counts = torch.bincount(upper, minlength=BINS).numpy()
    except RuntimeError:
        if int(bits.min()) >= 0:
            raise
        return None  # a NaN with its sign set
    first = INFINITY >> LOW_BITS
    if counts[first:].any() and int(bits.max()) > INFINITY:
        return None
    return counts


def _split(score: Score, piece: Piece, edge: int) -> _Split:
    bits = score(piece).view(torch.int32).numpy()
    above = np.packbits(bits >= (edge + 1) << LOW_BITS, bitorder="little")
    within = np.packbits(bits >= edge << LOW_BITS, bitorder="little")
    within ^= above
    positions = _ones(within)
    low = (bits[positions] & ((1 << LOW_BITS) - 1)).astype(np.uint16)
    return _Split(above, positions, low)


def _ones(bits: np.ndarray) -> np.ndarray:
    """Return the positions of the ones, uint32; quick where they are few."""
    if 16 * count_bits(bits) > 8 * len(bits):
        return np.flatnonzero(np.unpackbits(bits, bitorder="little")).astype(np.uint32)
    byte = np.flatnonzero(bits)
    row, column = np.nonzero(np.unpackbits(bits[byte, None], axis=1, bitorder="little"))
    return (byte[row] * 8 + column).astype(np.uint32)
