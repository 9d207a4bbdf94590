"""Counts by |W| and |Δ|, cut to where coordinates lie and to no more bins than can be drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sparseopd.analysis import Analysis

MOST = 44
"""Bins on an axis; of more, two are drawn as one."""
RARE = 5e-4
"""Share of the moved coordinates at either end of an axis that is left out: a long thin tail."""


@dataclass(frozen=True)
class Joint:
    """Counts by |W| and |Δ|, ready to draw: bins between edges in log₂, and zeros apart."""

    weight: np.ndarray
    """float (x + 1,): log₂ of the edges of |W|."""
    change: np.ndarray
    """float (y + 1,): log₂ of the edges of |Δ|."""
    shares: dict[str, np.ndarray]
    """By side, (x, y): shares of all coordinates."""
    still: dict[str, np.ndarray]
    """By side, (x,): of those with Δ = 0."""
    unmoved: dict[str, float]
    """By side: the share with Δ = 0, whatever W is."""
    empty: float
    """The share of coordinates with W = 0."""


def joint_of(analysis: Analysis) -> Joint | None:
    """Cut the counts to where coordinates lie, in no more bins than can be drawn."""
    found = analysis.joint
    if not found or not analysis.whole["observed"]["delta_fro"]:
        return None
    counts = {
        side: np.array(found[side], dtype=float)
        for side in ("observed", "gaussian")
        if side in found
    }
    shares = {side: table / table.sum() for side, table in counts.items()}
    moved = np.sum([table[1:, 1:] for table in shares.values()], axis=0)
    if not moved.sum():
        return None
    rows, columns = _used(moved.sum(1)), _used(moved.sum(0))
    weight, x = _edges(found["weight"], rows)
    change, y = _edges(found["change"], columns)
    return Joint(
        weight=weight,
        change=change,
        shares={side: _merged(_merged(table, x, 0), y, 1) for side, table in shares.items()},
        still={side: _merged(table[:, 0], x, 0) for side, table in shares.items()},
        unmoved={side: float(table[:, 0].sum()) for side, table in shares.items()},
        empty=float(shares["observed"][0].sum()),
    )


def _used(marginal: np.ndarray) -> tuple[int, int]:
    """Places first…end (counted with the bin of zeros) outside of which next to nothing lies."""
    passed = marginal.cumsum() / marginal.sum()
    first, last = np.searchsorted(passed, [RARE, 1 - RARE])
    return int(first) + 1, min(int(last), len(marginal) - 1) + 2


def _edges(lower: list[float], used: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return log₂ of the edges of the bins to draw, and the place at which each of these begins.

    Lower edges are powers of two and one and a half times those.
    """
    first, end = used
    places = np.arange(first, end)
    if len(places) > MOST:
        places = np.array([place for place in places if math.frexp(lower[place])[0] == 0.5])
    following = lower[end] if end < len(lower) else _next(lower[end - 1])
    edges = [*(lower[place] for place in places), following]
    return np.log2(edges), np.array([*places, end])


def _next(edge: float) -> float:
    return edge * (1.5 if math.frexp(edge)[0] == 0.5 else 4 / 3)


def _merged(table: np.ndarray, begins: np.ndarray, axis: int) -> np.ndarray:
    """Add up the bins between one place and the next, up to the last."""
    inside = np.take(table, np.arange(begins[0], begins[-1]), axis=axis)
    return np.add.reduceat(inside, begins[:-1] - begins[0], axis=axis)
