"""PEFT's SUPERTUNING: of each linear layer, one share of differences and their flat positions.

Read from PEFT 0.21.2, tuners/supertuning: `supertuning_values` float32 (k,), `supertuning_indices`
int32 (k,), and merging is `weight.reshape(-1).scatter_add_(0, indices, values.to(weight.dtype))`.
"""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.convert import peft_folder
from sparseopd.adapter_files.convert.changes import Additions, Change, places_moved
from sparseopd.adapter_files.convert.differences import Difference
from sparseopd.adapter_files.convert.layers import Layer, plan
from sparseopd.adapter_files.convert.padded import Padded, write_padded
from sparseopd.adapter_files.convert.result import Outcome
from sparseopd.artifacts import Progress
from sparseopd.errors import AdapterError, AdapterFileError
from sparseopd.pairs.tensors import Source, Tensors

TITLE = "SUPERTUNING"
PARTS = ("supertuning_values", "supertuning_indices")
LARGEST = 2**31 - 1
"""Coordinates that a flat int32 index reaches."""


def export(
    adapter: SparseAdapter, base: Source | None, folder: Path, progress: Progress | None
) -> Outcome:
    """Write a SUPERTUNING adapter whose sparsity is that of the densest layer; the others are padded."""
    planned = plan(adapter, base, TITLE)
    sparsity = _sparsity(planned.layers)
    settings = {
        "peft_type": "SUPERTUNING",
        "sparsity": sparsity,
        # Otherwise the positions are chosen anew while loading.
        "save_precomputed_indices": True,
    }
    padded = Padded(
        title=TITLE,
        parts=PARTS,
        settings=settings,
        rule="one sparsity",
        room=lambda layer: _room(layer, sparsity),
        places=lambda _, positions: positions,
        added=_added,
    )
    return write_padded(padded, adapter, planned, folder, progress)


def read(folder: Path, source: Source, base: Tensors) -> Change:
    """Open a SUPERTUNING adapter. Raises `AdapterError` for one with a low-rank part as well."""
    opened = peft_folder.PeftFolder(folder, TITLE, PARTS)
    modules = opened.tensors_of(source, base)

    def merge(name: str, before: Tensor) -> tuple[Tensor, int]:
        values, places = opened.read(modules[name])
        _check(f"{folder}: {modules[name]}", before.numel(), values, places)
        after = before.clone().reshape(-1)
        after.scatter_add_(0, places.long(), values.float().to(before.dtype))
        return after.reshape(before.shape), places_moved(places, values)

    return Additions(list(modules), merge)


def _sparsity(layers: list[Layer]) -> float:
    """Return the largest sparsity at which PEFT's own rounding gives every layer room."""
    for layer in layers:
        if layer.numel > LARGEST:
            raise AdapterError(
                f"{layer.tensor} has {layer.numel:,} coordinates, and SUPERTUNING's int32 positions reach "
                f"{LARGEST:,}: convert to shira or coo"
            )
    sparsity = min(1 - layer.k / layer.numel for layer in layers)
    while any(_room(layer, sparsity) < layer.k for layer in layers):
        sparsity = math.nextafter(sparsity, 0.0)
    return sparsity


def _room(layer: Layer, sparsity: float) -> int:
    """Return the number of values a layer has, as `SupertuningLayer._num_trainable` reckons it."""
    return int(layer.numel * (1 - sparsity))


def _added(found: Difference) -> Tensor:
    """What `scatter_add_` makes: the difference is rounded to the weight's dtype, and then the sum."""
    return found.old + found.delta.to(found.old.dtype)


def _check(label: str, numel: int, values: Tensor, places: Tensor) -> None:
    """Raise `AdapterFileError` unless the positions lie in a weight of this size."""
    if values.ndim != 1 or places.shape != values.shape:
        raise AdapterFileError(
            f"{label} has values {tuple(values.shape)} and indices {tuple(places.shape)}: SUPERTUNING's "
            "are (k,) both"
        )
    if bool(((places < 0) | (places >= numel)).any()):
        raise AdapterFileError(
            f"{label} has indices outside its weight of {numel:,} coordinates: give the base it was "
            "trained on"
        )
