"""Exact selection of k coordinates by score, over tensors that are read one at a time.

A score is a non-negative int32: the bit pattern of a non-negative float32 orders like the float
itself (IEEE 754), so |Δ| is ranked without loss by its bits. Two passes: a histogram of the upper 16
bits finds the bin in which the k-th largest score lies; then everything above the bin is taken, and
the bin's own coordinates are sorted. No vector over the whole model is ever made.

Equal scores are ordered by a hash of (seed, tensor name, flat index), so that the choice depends
neither on the order of tensors nor on how a checkpoint is sharded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

SCORE_BITS, LOW_BITS = 31, 15
Scores = Callable[[str], Tensor]
"""name → int32 scores of (numel,), each ≥ 0."""


def take_largest(scores: Scores, names: Sequence[str], k: int, seed: int) -> dict[str, Tensor]:
    """Return bool (numel,) per name with exactly k True in all: the k largest scores.

    `scores` is called twice per name. The memory beyond one tensor and the result is 16 bytes for each
    coordinate that shares the upper 16 bits of its score with the k-th largest.
    """
    histogram = torch.zeros(1 << (SCORE_BITS - LOW_BITS), dtype=torch.int64)
    for name in names:
        histogram += torch.bincount(scores(name) >> LOW_BITS, minlength=len(histogram))
    edge, above = _edge_bin(histogram, k)
    chosen: dict[str, Tensor] = {}
    tied: list[tuple[str, np.ndarray, np.ndarray]] = []
    for name in names:
        values = scores(name)
        upper = values >> LOW_BITS
        chosen[name] = upper > edge
        where = torch.nonzero(upper == edge).view(-1)
        if len(where):
            tied.append((name, where.numpy(), values[where].numpy()))
    _take_from_edge(chosen, tied, k - above, seed)
    return chosen


def random_scores(name: str, numel: int, seed: int) -> Tensor:
    """Return int32 (numel,) uniform scores that depend only on seed, name and index."""
    keys = _keys(name, np.arange(numel, dtype=np.uint64), seed)
    return torch.from_numpy((keys >> np.uint64(33)).astype(np.int32))


def _edge_bin(histogram: Tensor, k: int) -> tuple[int, int]:
    """Return the bin that holds the k-th largest score, and how many scores lie above that bin."""
    above = torch.cat(
        [
            torch.flip(torch.cumsum(torch.flip(histogram, [0]), 0), [0]),
            torch.zeros(1, dtype=torch.int64),
        ]
    )
    edge = int(torch.nonzero(above >= k)[-1]) if k else len(histogram)
    edge = min(edge, len(histogram) - 1)
    return edge, int(above[edge + 1])


def _take_from_edge(
    chosen: dict[str, Tensor],
    tied: list[tuple[str, np.ndarray, np.ndarray]],
    needed: int,
    seed: int,
) -> None:
    """Mark the `needed` largest of the edge bin: by score, then by hash."""
    if not tied or needed <= 0:
        return
    values = np.concatenate([value for _, _, value in tied])
    keys = np.concatenate(
        [_keys(name, where.astype(np.uint64), seed + 1) for name, where, _ in tied]
    )
    taken = np.zeros(len(values), dtype=bool)
    taken[np.lexsort((keys, -values))[:needed]] = True
    start = 0
    for name, where, _ in tied:
        chosen[name][torch.from_numpy(where[taken[start : start + len(where)]])] = True
        start += len(where)


def _keys(name: str, index: np.ndarray, seed: int) -> np.ndarray:
    """Hash flat indices to uint64: splitmix64 (Steele et al. 2014), started from seed and name."""
    start = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    with np.errstate(over="ignore"):
        mixed = index * np.uint64(0x9E3779B97F4A7C15) + np.uint64(int.from_bytes(start, "little"))
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
