"""How far masks of one model overlap, beside what chance and a |W|-matched null would give.

Chance spreads the second mask evenly over all weights: |A∩B|/|A| = |B|/n (PAPER.md §3). But masks that
both prefer small weights overlap for that alone. The null therefore draws the second mask anew within
every |W| quantile of every tensor (strata.py), as many coordinates as it has there. Its mean and
variance are known exactly (a hypergeometric sum), so nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from sparseopd.errors import MaskError
from sparseopd.masks.bitmap import count_bits
from sparseopd.masks.comparison import Comparison
from sparseopd.masks.layout import place
from sparseopd.masks.mask import Mask
from sparseopd.masks.scope import block_of
from sparseopd.masks.strata import Strata
from sparseopd.pairs.tensors import Tensors


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Two masks A and B over some tensors: counts, and what the null expects of them."""

    first: int
    """|A|."""
    second: int
    """|B|."""
    both: int
    """|A∩B|."""
    numel: int
    """Coordinates covered, n."""
    expected: float | None = None
    """Mean of |A∩B| under the |W|-matched null; None without the base's weights."""
    variance: float | None = None
    """Its variance."""

    @property
    def jaccard(self) -> float | None:
        """|A∩B| / |A∪B|; None where both are empty."""
        return _share(self.both, self.first + self.second - self.both)

    @property
    def coverage(self) -> float | None:
        """|A∩B| / |A|: how much of A lies in B."""
        return _share(self.both, self.first)

    @property
    def coverage_back(self) -> float | None:
        """|A∩B| / |B|: how much of B lies in A."""
        return _share(self.both, self.second)

    @property
    def chance(self) -> float | None:
        """|B| / n, the coverage of A by a mask spread evenly."""
        return _share(self.second, self.numel)

    @property
    def null(self) -> float | None:
        """The coverage of A expected under the |W|-matched null."""
        return None if self.expected is None else _share(self.expected, self.first)

    @property
    def margin(self) -> float | None:
        """Coverage of A above the null's."""
        null, coverage = self.null, self.coverage
        return None if null is None or coverage is None else coverage - null

    @property
    def deviations(self) -> float | None:
        """|A∩B| above the null's mean, in its standard deviations; None where it cannot vary."""
        if self.expected is None or not self.variance:
            return None
        return (self.both - self.expected) / self.variance**0.5

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            first=self.first + other.first,
            second=self.second + other.second,
            both=self.both + other.both,
            numel=self.numel + other.numel,
            expected=_sum(self.expected, other.expected),
            variance=_sum(self.variance, other.variance),
        )


@dataclass(frozen=True)
class TensorOverlap:
    """The overlap in one checkpoint tensor, and where it lies."""

    name: str
    layer: int | None
    block: str
    overlap: Overlap


def overlaps(
    masks: Sequence[Mask], base: Tensors | None = None
) -> dict[tuple[int, int], list[TensorOverlap]]:
    """Compare every two of `masks`; return per pair of their places one row a tensor.

    `base` is the model they choose from, whose weights the null is matched to; without it there is
    chance alone. Raises `MaskMismatchError` for masks of different models, or another base.
    """
    if len(masks) < 2:
        raise MaskError("an overlap needs two masks or more")
    for other in masks[1:]:
        masks[0].require_same_model(other)
    if base is not None:
        masks[0].verify(base)
    pairs = list(combinations(range(len(masks)), 2))
    rows: dict[tuple[int, int], list[TensorOverlap]] = {pair: [] for pair in pairs}
    comparison = Comparison(base, None) if base is not None else None
    for name in masks[0].names:
        layer, block = place(name)[0], block_of(name)
        held = [mask.bitmaps[name] if mask.count(name) else None for mask in masks]
        strata = _Counted(comparison, name, held) if comparison is not None else None
        for one, two in pairs:
            first, second = held[one], held[two]
            both = 0 if first is None or second is None else count_bits(first.bits & second.bits)
            expected, variance = strata.null(one, two) if strata is not None else (None, None)
            overlap = Overlap(
                first=masks[one].count(name),
                second=masks[two].count(name),
                both=both,
                numel=masks[0].numel(name),
                expected=expected,
                variance=variance,
            )
            rows[one, two].append(TensorOverlap(name, layer, block, overlap))
    return rows


def together(rows: Iterable[TensorOverlap]) -> Overlap:
    """Add up rows."""
    empty = Overlap(first=0, second=0, both=0, numel=0, expected=0.0, variance=0.0)
    return sum((row.overlap for row in rows), empty)


def by_block(rows: Sequence[TensorOverlap]) -> dict[str, Overlap]:
    """Add up rows by block, in order of first appearance."""
    blocks = dict.fromkeys(row.block for row in rows)
    return {block: together(row for row in rows if row.block == block) for block in blocks}


def by_layer(rows: Sequence[TensorOverlap]) -> dict[int, Overlap]:
    """Add up rows by layer, ascending; what has no layer is left out. Vision towers count apart."""
    own = [row for row in rows if row.layer is not None and row.block != "vision"]
    layers = sorted({row.layer for row in own if row.layer is not None})
    return {layer: together(row for row in own if row.layer == layer) for layer in layers}


class _Counted:
    """How many coordinates of every |W| stratum of a tensor each mask has."""

    def __init__(self, comparison: Comparison, name: str, held: Sequence) -> None:
        self._counts: list[np.ndarray | None] = [None] * len(held)
        if sum(bitmap is not None for bitmap in held) < 2:
            return
        strata = Strata(comparison, name)
        self._sizes = strata.count(lambda piece: None)
        for place_, bitmap in enumerate(held):
            if bitmap is not None:
                self._counts[place_] = strata.count(
                    lambda piece, bitmap=bitmap: bitmap.flat(piece.start, piece.stop)
                )

    def null(self, one: int, two: int) -> tuple[float, float]:
        """Mean and variance of the overlap of two masks, the second drawn anew in every stratum."""
        first, second = self._counts[one], self._counts[two]
        if first is None or second is None:
            return 0.0, 0.0
        a, b, n = (counts.astype(np.float64) for counts in (first, second, self._sizes))
        a, b, n = a[n > 0], b[n > 0], n[n > 0]
        variance = a * b * (n - a) * (n - b) / (n**2 * np.maximum(n - 1, 1))
        return float((a * b / n).sum()), float(variance.sum())


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
