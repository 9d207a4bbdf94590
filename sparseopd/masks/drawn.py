"""Random masks drawn like another mask: as many coordinates in every tensor, or in every stratum."""

from __future__ import annotations

import numpy as np

from sparseopd.errors import MaskError
from sparseopd.masks.bitmap import Bitmap, Bitmaps
from sparseopd.masks.comparison import Comparison
from sparseopd.masks.keys import keys
from sparseopd.masks.ranking import Score, take_largest
from sparseopd.masks.strata import Strata
from sparseopd.masks.stream import Piece, Shelf, for_each

_LOW = np.uint32(16)
"""Bits of a key below those that are counted."""


def drawn_like(comparison: Comparison, like: Bitmaps, score: Score, match: str) -> Bitmaps:
    """Draw a random mask with the counts of `like`: per tensor, or per |W| quantile of each tensor.

    Raises `MaskError` if `like` chooses from tensors that the comparison's scope leaves out.
    """
    outside = [name for name in like if name not in comparison.names and like.count(name)]
    if outside:
        raise MaskError(f"the mask to match chooses from {outside[0]}, which the scope leaves out")

    def read(name: str) -> Bitmap:
        if name not in like or not like.count(name):
            return Bitmap.empty(comparison.shapes[name])
        if match == "magnitude":
            return _matched_by_magnitude(comparison, name, like[name])
        return take_largest(comparison, score, [name], like.count(name), Shelf()).bitmap(name)

    return Bitmaps(comparison.shapes, read)


def _matched_by_magnitude(comparison: Comparison, name: str, like: Bitmap) -> Bitmap:
    """Choose within every stratum the coordinates with the smallest keys, as many as `like` has.

    Two passes as in `ranking.py`: keys are counted by stratum and upper bits, then taken up to the
    bin in which a stratum's last one lies; what lies in it is sorted.
    """
    strata = Strata(comparison, name)
    wanted = strata.count(lambda piece: like.flat(piece.start, piece.stop))
    counts = np.zeros((strata.number, 1 << 16), dtype=np.int64)
    for _, found in for_each(
        comparison.pieces([name]), lambda piece: _count_keys(strata, piece, comparison.seed)
    ):
        counts += found
    up_to = np.cumsum(counts, axis=1)
    edge = (up_to < wanted[:, None]).sum(axis=1)
    below = np.where(
        edge > 0, np.take_along_axis(up_to, np.maximum(edge - 1, 0)[:, None], 1)[:, 0], 0
    )
    flags = np.zeros(like.numel, dtype=np.bool_)
    near: list[np.ndarray] = []
    for piece, (taken, close) in for_each(
        comparison.pieces([name]), lambda piece: _split_keys(strata, piece, comparison.seed, edge)
    ):
        flags[piece.start : piece.stop] = taken
        near.append(close)
    _take_nearest(flags, np.concatenate(near), wanted - below)
    return Bitmap(like.shape, np.packbits(flags, bitorder="little"))


def _count_keys(strata: Strata, piece: Piece, seed: int) -> np.ndarray:
    upper = (_keys_of(piece, seed) >> _LOW).astype(np.int64)
    places = strata.of(piece).numpy() << 16 | upper
    return np.bincount(places, minlength=strata.number << 16).reshape(strata.number, -1)


def _split_keys(
    strata: Strata, piece: Piece, seed: int, edge: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What lies below its stratum's edge bin (bool), and what lies in it: (m, 3) uint64."""
    own, stratum = _keys_of(piece, seed), strata.of(piece).numpy()
    upper = (own >> _LOW).astype(np.int64)
    close = np.flatnonzero(upper == edge[stratum])
    rows = np.stack(
        [stratum[close].astype(np.uint64), own[close], (close + piece.start).astype(np.uint64)],
        axis=1,
    )
    return upper < edge[stratum], rows


def _take_nearest(flags: np.ndarray, near: np.ndarray, needed: np.ndarray) -> None:
    """Mark the first `needed[stratum]` rows (stratum, key, position) of every stratum."""
    near = near[np.lexsort((near[:, 2], near[:, 1], near[:, 0]))]
    stratum = near[:, 0].astype(np.int64)
    first = np.searchsorted(stratum, np.arange(len(needed)))
    place = np.arange(len(near)) - first[stratum]
    flags[near[place < needed[stratum], 2].astype(np.int64)] = True


def _keys_of(piece: Piece, seed: int) -> np.ndarray:
    return keys("matched", piece.name, piece.start, piece.stop, seed)
