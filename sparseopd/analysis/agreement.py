"""How many coordinates of checkpoints agree within a tolerance, read piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import torch
from torch import Tensor

from sparseopd.artifacts import Progress
from sparseopd.masks.stream import Scratch, for_each
from sparseopd.pairs.tensors import Tensors, pieces

TOLERANCES = (1e-5, 1e-4)
Pair = tuple[int, int]
_scratch = Scratch()


def agreement(left: Tensors, right: Tensors) -> dict[str, float] | None:
    """Return the share of all coordinates with |left - right| within each tolerance.

    Values are compared in fp32. The keys are "1e-05" and "1e-04". None for models of different
    architecture, whose coordinates do not correspond.
    """
    names = left.keys()
    if names != right.keys() or any(left.shape(name) != right.shape(name) for name in names):
        return None
    return agreements([left, right])[0, 1]


def agreements(
    models: Sequence[Tensors], names: Sequence[str] | None = None, progress: Progress | None = None
) -> dict[Pair, dict[str, float]]:
    """Return the `agreement` of every two models, by their places; each model is read once.

    All have tensors of the same shapes under `names`, by default every name of the first. `progress` is
    called with the bytes read.
    """
    names = models[0].keys() if names is None else names
    pairs = list(combinations(range(len(models)), 2))
    total = sum(models[0].shape(name).numel() for name in names)
    size = sum(_bytes(models, name, models[0].shape(name).numel()) for name in names)
    close = torch.zeros(len(pairs), len(TOLERANCES), dtype=torch.int64)
    read = 0
    for (name, held), found in for_each(_pieces(models, names), lambda item: _count(item[1])):
        close += found
        read += _bytes(models, name, held[0].numel())
        if progress is not None:
            progress("agreement", read, size, "bytes")
    return {
        pair: {f"{tolerance:.0e}": int(count) / total for tolerance, count in _named(row)}
        for pair, row in zip(pairs, close, strict=True)
    }


def _named(row: Tensor) -> Iterator[tuple[float, Tensor]]:
    return zip(TOLERANCES, row, strict=True)


def _pieces(models: Sequence[Tensors], names: Sequence[str]) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield the same coordinates of all models, piece by piece."""
    for name in names:
        for start, stop in pieces(models[0].shape(name).numel()):
            yield name, [model.flat(name, start, stop) for model in models]


def _count(held: Sequence[Tensor]) -> Tensor:
    """Count what agrees in each pair of pieces (numel,), within each tolerance: (pairs, tolerances)."""
    numel = held[0].numel()
    values = [
        _scratch.take(f"model {place}", numel).copy_(one.reshape(-1))
        for place, one in enumerate(held)
    ]
    apart = _scratch.take("apart", numel)
    found = []
    for one, other in combinations(values, 2):
        torch.sub(one, other, out=apart).abs_()
        found.append([int((apart <= tolerance).sum()) for tolerance in TOLERANCES])
    return torch.tensor(found)


def _bytes(models: Sequence[Tensors], name: str, numel: int) -> int:
    return sum(numel * model.dtype(name).itemsize for model in models)
