"""Weighted sums of sparse adapters, and where they contradict each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparseopd.adapters.layer import SparseLayer
from sparseopd.masks.places import Places
from sparseopd.overlays.placed import Placed


@dataclass(frozen=True)
class Conflicts:
    """Coordinates that more than one of the summed adapters has."""

    shared: int
    """How many there are."""
    opposed: int
    """At how many of them two adapters move the base in opposite directions."""
    coordinates: int
    """How many coordinates the sum has."""
    by_tensor: dict[str, tuple[int, int]] = field(default_factory=dict, repr=False)
    """`shared` and `opposed` of each parameter that has shared ones."""


@dataclass(frozen=True)
class Summed:
    """A weighted sum: values by parameter, (k,), in the adapters' dtype, and its conflicts."""

    values: dict[str, Tensor]
    conflicts: Conflicts


@torch.no_grad()
def weighted_sum(
    layers: Iterable[SparseLayer],
    placed: Mapping[str, Placed],
    adapters: Sequence[str],
    weights: Sequence[float],
) -> Summed:
    """Return base + Σ wᵢ (valuesᵢ - base) at every coordinate of `placed`, while the base's bits are on.

    A coordinate that a single adapter of weight 1 has gets that adapter's value to the bit.
    """
    values, by_tensor, coordinates = {}, {}, 0
    for layer in layers:
        if layer.name not in placed:
            continue
        places = placed[layer.name].places
        values[layer.name], shared, opposed = _sum(layer, places, adapters, weights)
        coordinates += places.k
        if shared:
            by_tensor[layer.name] = (shared, opposed)
    both = [sum(column) for column in zip(*by_tensor.values(), strict=True)] or [0, 0]
    return Summed(values, Conflicts(both[0], both[1], coordinates, by_tensor))


def _sum(
    layer: SparseLayer, places: Places, adapters: Sequence[str], weights: Sequence[float]
) -> tuple[Tensor, int, int]:
    """Return a weight's sum, (k,), and how many of its coordinates are shared and opposed."""
    base = places.take(layer.weight.detach()).double()
    total, share = torch.zeros_like(base), torch.zeros_like(base)
    times = torch.zeros_like(base, dtype=torch.int16)
    rises, falls = (torch.zeros_like(base, dtype=torch.bool) for _ in range(2))
    parts = []
    for adapter, weight in zip(adapters, weights, strict=True):
        adapted = layer.adapted(adapter)
        if adapted is None:
            continue
        where = torch.searchsorted(places.positions(), adapted.placed.places.positions())
        own = adapted.exact
        total[where] += weight * own.double()
        share[where] += weight
        times[where] += 1
        moved = weight * (own.double() - base[where])
        rises[where] |= moved > 0
        falls[where] |= moved < 0
        parts.append((where, weight, own))
    # Where the weights add up to 1 the base has no part, be it infinite.
    rest = torch.where(share == 1, 0.0, (1 - share) * base)
    dtypes = {own.dtype for _, _, own in parts}
    summed = (total + rest).to(dtypes.pop() if len(dtypes) == 1 else torch.float32)
    for where, weight, own in parts:
        if weight == 1:  # to the bit, also where arithmetic loses a sign or a NaN's bits
            alone = times[where] == 1
            summed[where[alone]] = own[alone].to(summed.dtype)
    shared = times > 1
    return summed, int(shared.sum()), int((shared & rises & falls).sum())
