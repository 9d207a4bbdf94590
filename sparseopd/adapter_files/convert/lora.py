"""LoRA: of each linear layer, the best approximation of the update that a product of low rank can be.

The update of a sparse adapter has full rank, so that this loses a part, which is measured and stated.
The factors are √σ-scaled singular vectors: B = U√S and A = √S Vᵀ, with lora_alpha = r.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.convert import peft_folder
from sparseopd.adapter_files.convert.changes import Additions, Change
from sparseopd.adapter_files.convert.differences import difference, widened
from sparseopd.adapter_files.convert.layers import Layer, Plan, plan
from sparseopd.adapter_files.convert.result import Outcome
from sparseopd.adapter_files.convert.steps import layers_in
from sparseopd.artifacts import Progress
from sparseopd.errors import AdapterError, PairError
from sparseopd.pairs.lora import LoraUpdate
from sparseopd.pairs.tensors import Source, Tensors
from sparseopd.singular import decompose

TITLE = "LoRA"
RANK = 16
EXACT = 1024
"""Largest min(rows, columns) decomposed exactly, which takes time with its third power."""
POWERS, OVERSAMPLING = 4, 16
"""Of the randomized decomposition beyond (Halko et al. 2011, algorithm 4.4)."""


class _Residuals:
    """Collects how much of the update each product leaves out."""

    def __init__(self) -> None:
        self.each: dict[str, float] = {}
        self._missed = self._whole = 0.0

    def add(self, name: str, delta: Tensor, product: Tensor) -> None:
        """Compare an update with its product."""
        missed, whole = float((delta - product).norm()), float(delta.norm())
        self.each[name] = missed / whole if whole else 0.0
        self._missed += missed**2
        self._whole += whole**2

    def losses(self, rank: int) -> list[str]:
        """State the residual of all layers together, and between which bounds it lies."""
        total = (self._missed / self._whole) ** 0.5 if self._whole else 0.0
        low, high = (pick(self.each, key=self.each.__getitem__) for pick in (min, max))
        return [
            f"products of rank {rank} leave out {100 * total:.3g} % of the update (‖Δ − BA‖ / ‖Δ‖, over "
            f"{len(self.each)} layers), from {100 * self.each[low]:.3g} % in {low} to "
            f"{100 * self.each[high]:.3g} % in {high}; a higher rank leaves out less"
        ]


def export(
    adapter: SparseAdapter,
    base: Source | None,
    folder: Path,
    progress: Progress | None,
    rank: int = RANK,
) -> Outcome:
    """Write a LoRA adapter of one rank. Raises `AdapterError` for a rank below 1 or a value that is no number."""
    if rank < 1:
        raise AdapterError(f"a rank of {rank} holds nothing: give 1 or more")
    planned = plan(adapter, base, TITLE)
    residuals = _Residuals()
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
    }
    tensors = _tensors(adapter, planned, rank, residuals, progress)
    peft_folder.save(folder, adapter, planned, settings, tensors)
    reached = sum(layer.numel for layer in planned.layers)
    spread = (
        f"a product is dense: it reaches {reached - planned.k:,} of {reached:,} coordinates that the adapter "
        "leaves as they are"
    )
    losses = [*planned.losses, *residuals.losses(rank), spread]
    return Outcome(k=planned.k, losses=losses, residuals=residuals.each)


def read(folder: Path, source: Source, base: Tensors) -> Change:
    """Open a LoRA adapter, whose update may reach every coordinate of its layers. Raises `AdapterError`."""
    try:
        update = LoraUpdate(folder, base, base.folder)
    except PairError as error:
        raise AdapterError(str(error)) from error

    def merge(name: str, before: Tensor) -> tuple[Tensor, int]:
        delta, wide = update.update(name), widened(before.dtype)
        after = (before.to(wide) + delta.to(wide)).to(before.dtype)
        return after, int(delta.count_nonzero())

    return Additions(update.keys(), merge)


def factors(
    delta: Float[Tensor, "m n"], rank: int
) -> tuple[Float[Tensor, "m r"], Float[Tensor, "r n"]]:
    """Return B and A, float32, whose product is the best of its rank; zeros fill ranks beyond the matrix's."""
    count = min(rank, *delta.shape)
    left, values, right = _leading(delta, count)
    root = values.sqrt()
    up, down = torch.zeros(len(delta), rank), torch.zeros(rank, delta.shape[1])
    up[:, :count] = left * root
    down[:count] = (right * root).T
    return up, down


def _leading(delta: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the leading singular vectors and values: (m, count), (count,), (n, count)."""
    if min(delta.shape) <= EXACT:
        found = decompose(delta, count)
        assert found.left is not None and found.right is not None
        return found.left, found.values[:count], found.right
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same adapter gives the same bytes
        size = min(count + OVERSAMPLING, *delta.shape)
        left, values, right = torch.svd_lowrank(delta, q=size, niter=POWERS)
    return left[:, :count], values[:count], right[:, :count]


def _tensors(
    adapter: SparseAdapter,
    planned: Plan,
    rank: int,
    residuals: _Residuals,
    progress: Progress | None,
) -> Iterator[tuple[str, Tensor]]:
    for layer in layers_in(planned, progress):
        delta = _update(adapter, planned.base, layer)
        up, down = factors(delta, rank)
        residuals.add(layer.tensor, delta, up @ down)
        yield f"{layer.module}.lora_A.weight", down
        yield f"{layer.module}.lora_B.weight", up


def _update(adapter: SparseAdapter, base: Tensors, layer: Layer) -> Float[Tensor, "m n"]:
    """Return a layer's update, float32, zero where the adapter has no value."""
    found = difference(adapter, base, layer.tensor)
    if not bool(found.delta.isfinite().all()):
        raise AdapterError(
            f"{layer.tensor} has values that are not finite, of which no product can be made: convert to "
            "coo, which keeps them"
        )
    dense = torch.zeros(layer.numel)
    dense[found.positions] = found.delta
    return dense.view(layer.rows, layer.columns)
