"""Exactly the k coordinates with the largest scores, over tensors read piece by piece.

A score is a non-negative float32, whose bit pattern orders like the number itself (IEEE 754; infinity
the largest, anything above it is not a number). No vector over the whole model is ever made:

1. A histogram of the scores' upper 16 bits tells the bin in which the k-th largest lies. For a large
   model a sample's histogram first guesses a few bins around it, which saves the pass over all.
2. One pass takes what lies above these bins and puts what lies in them on a shelf, where `edge.py`
   decides, by the lower bits and, among equal scores, by a hash of the coordinate.

Should the sample have misled, which the pass's counts show, the histogram is made of everything and
the pass repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparseopd.errors import MaskError
from sparseopd.masks.bitmap import Bitmap, count_bits, ones
from sparseopd.masks.comparison import Comparison
from sparseopd.masks.edge import Edge
from sparseopd.masks.stream import Kept, Piece, Scratch, Shelf, for_each

LOW_BITS = 15
BINS = 1 << (31 - LOW_BITS)
INFINITY = 0x7F800000
"""The bit pattern of float32 infinity."""
LARGE = 1 << 24
"""Coordinates from which a sample of the scores is taken first."""
SAMPLED = 32
"""The sample is the first part of every piece, one of this many."""
WIDEST = 64
"""Bins a guess may span; wider ones would leave too much undecided."""
MANY = 64
"""A piece of which more than this fraction is undecided is looked at for exact ties."""

Score = Callable[[Piece], Tensor]
"""piece → float32 (numel,), each ≥ 0; called several times for a piece, from several threads."""
_scratch = Scratch()


@dataclass(frozen=True)
class Taken:
    """The k largest scores."""

    bitmap: Callable[[str], Bitmap]
    """name → what is taken of a tensor."""
    idle: int
    """How many of them are 0: with a score of |Δ|, coordinates that did not move."""


@dataclass(frozen=True)
class _Range:
    """Bit patterns bottom…top - 1: what scores in it are undecided, those above are taken."""

    bottom: int
    top: int


def count_scores(
    comparison: Comparison, score: Score, names: Sequence[str], share: int = 1
) -> np.ndarray:
    """Return int64 (BINS,), how many scores have each pattern of their upper 16 bits.

    `share` looks at a part of every piece only. Raises `MaskError` naming the tensor where a score is
    not a number.
    """
    counts = np.zeros(BINS, dtype=np.int64)
    for piece, found in for_each(
        comparison.pieces(names, share), lambda piece: _count(score, piece)
    ):
        if found is None:
            raise not_a_number(piece)
        counts += found
    return counts


def take_largest(
    comparison: Comparison,
    score: Score,
    names: Sequence[str],
    k: int,
    shelf: Shelf,
    counts: np.ndarray | None = None,
) -> Taken:
    """Choose the k largest scores of `names`.

    `counts` may be handed in, of `count_scores`, where several k are taken of the same scores.
    `comparison.seed` breaks ties. Raises `MaskError` as `count_scores` does.
    """
    if not k:
        return Taken(lambda name: Bitmap.empty(comparison.shapes[name]), 0)
    if counts is None:
        guess = _guess(comparison, score, names, k)
        if guess is not None:
            passed = _Pass(comparison, score, names, guess, shelf)
            if passed.holds(k):
                return passed.take(k)
        counts = count_scores(comparison, score, names)
    edge = int(np.flatnonzero(_at_least(counts) >= k)[-1])
    exact = _Range(edge << LOW_BITS, (edge + 1) << LOW_BITS)
    return _Pass(comparison, score, names, exact, shelf).take(k)


class _Pass:
    """One pass over the pieces: what lies above a range is taken, what lies in it left to decide."""

    def __init__(
        self,
        comparison: Comparison,
        score: Score,
        names: Sequence[str],
        undecided: _Range,
        shelf: Shelf,
    ) -> None:
        self._shapes, self._shelf, self._above = comparison.shapes, shelf, 0
        self._bottom = undecided.bottom
        self._taken: dict[str, list[Kept]] = {}
        self._edge = Edge(shelf, comparison.seed, undecided.top - undecided.bottom)
        for piece, found in for_each(
            comparison.pieces(names), lambda piece: _split(score, piece, undecided)
        ):
            if found is None:
                raise not_a_number(piece)
            self._taken.setdefault(piece.name, []).append(shelf.put(found.above))
            self._above += found.number
            if found.within is not None:
                self._edge.add(piece.name, piece.start, piece.numel, *found.within)

    def holds(self, k: int) -> bool:
        """Whether the k-th largest score lies in the range."""
        return self._above < k <= self._above + self._edge.count

    def take(self, k: int) -> Taken:
        """Decide the range, and so the k largest."""
        more: dict[str, list[tuple[int, Kept]]] = {}
        for name, start, bits in self._edge.decide(k - self._above):
            more.setdefault(name, []).append((start, self._shelf.put(bits)))
        shelf, shapes, taken = self._shelf, self._shapes, self._taken  # outlive this pass's counts

        def read(name: str) -> Bitmap:
            bitmap = Bitmap.join(shapes[name], [shelf.get(kept) for kept in taken.get(name, [])])
            for start, kept in more.get(name, []):
                bitmap.bits[start // 8 : start // 8 + kept.length] |= shelf.get(kept)
            return bitmap

        nothing = self._bottom == 0 and self._edge.floor == 0
        return Taken(read, self._edge.last if nothing else 0)


def _guess(comparison: Comparison, score: Score, names: Sequence[str], k: int) -> _Range | None:
    """Guess from a sample where the k-th largest score lies, give or take 2 % of k and six sigma."""
    numel = sum(comparison.shapes[name].numel() for name in names)
    if numel < LARGE:
        return None
    at_least = _at_least(count_scores(comparison, score, names, SAMPLED))
    sampled, share = int(at_least[0]), k / numel
    margin = 0.02 * share + 6 * (share / sampled) ** 0.5
    bottom = int(np.flatnonzero(at_least >= min(1.0, share + margin) * sampled)[-1])
    top = int(np.flatnonzero(at_least > (share - margin) * sampled)[-1]) + 1
    if top - bottom > WIDEST:
        return None
    return _Range(bottom << LOW_BITS, top << LOW_BITS)


def _at_least(counts: np.ndarray) -> np.ndarray:
    """Return how many scores lie in each bin or above."""
    return np.cumsum(counts[::-1])[::-1]


@dataclass(frozen=True)
class _Split:
    """One piece after the pass."""

    above: np.ndarray
    """uint8, packed: what lies above the range, and so is taken."""
    number: int
    """How many these are."""
    within: tuple[np.ndarray | None, np.ndarray, np.ndarray] | None
    """What lies in the range, as `Edge.add` wants it; None if nothing does."""


def _count(score: Score, piece: Piece) -> np.ndarray | None:
    """Histogram one piece; None if a score is not a number."""
    bits = score(piece).view(torch.int32)
    if not _are_numbers(bits):
        return None
    upper = _scratch.take("upper", piece.numel, torch.int32)
    torch.bitwise_right_shift(bits, LOW_BITS, out=upper)
    return torch.bincount(upper, minlength=BINS).numpy()


def _split(score: Score, piece: Piece, undecided: _Range) -> _Split | None:
    """Split one piece; None if a score is not a number."""
    scores = score(piece).view(torch.int32)
    if not _are_numbers(scores):
        return None
    bits = scores.numpy()
    above = np.packbits(bits >= undecided.top, bitorder="little")
    within = np.packbits(bits >= undecided.bottom, bitorder="little") ^ above
    number = count_bits(within)
    if not number:
        return _Split(above, count_bits(above), None)
    even = None
    if number > piece.numel // MANY:
        even = np.packbits(bits == undecided.bottom, bitorder="little")
        within ^= even
    odd = ones(within)
    low = (bits[odd] - undecided.bottom).astype(np.uint32)
    return _Split(above, count_bits(above), (even, odd, low))


def _are_numbers(bits: Tensor) -> bool:
    """Whether no pattern lies above infinity's or has its sign set."""
    low, high = torch.aminmax(bits)
    return int(low) >= 0 and int(high) <= INFINITY


def not_a_number(piece: Piece) -> MaskError:
    """Make the error that names the tensor of a piece."""
    return MaskError(
        f"{piece.name} has values that are not numbers (or a difference of infinities) after "
        f"coordinate {piece.start:,}: the checkpoint is damaged"
    )
