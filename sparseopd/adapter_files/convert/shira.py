"""PEFT's SHiRA: of each linear layer, r·(rows + columns) differences and their rows and columns.

Read from PEFT 0.21.2, tuners/shira: `shira_weight` float32 (k,), `shira_indices` int32 (2, k), and
merging is `weight += torch.sparse_coo_tensor(indices, values)`, in which repeated places add up.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sparseopd.adapter_files.adapter import SparseAdapter
from sparseopd.adapter_files.convert import peft_folder
from sparseopd.adapter_files.convert.changes import Additions, Change, places_moved
from sparseopd.adapter_files.convert.differences import Difference, widened
from sparseopd.adapter_files.convert.layers import Layer, plan
from sparseopd.adapter_files.convert.padded import Padded, write_padded
from sparseopd.adapter_files.convert.result import Outcome
from sparseopd.artifacts import Progress
from sparseopd.errors import AdapterError, AdapterFileError
from sparseopd.pairs.tensors import Source, Tensors

TITLE = "SHiRA"
PARTS = ("shira_weight", "shira_indices")


def export(
    adapter: SparseAdapter, base: Source | None, folder: Path, progress: Progress | None
) -> Outcome:
    """Write a SHiRA adapter whose rank r is the largest that a layer needs; the others are padded."""
    planned = plan(adapter, base, TITLE)
    rank = _rank(planned.layers)
    # Any other type than "random", which would draw a permutation of each layer while loading.
    settings = {"peft_type": "SHIRA", "r": rank, "mask_type": "sparseopd", "fan_in_fan_out": False}
    padded = Padded(
        title=TITLE,
        parts=PARTS,
        settings=settings,
        rule="one rank",
        room=lambda layer: rank * (layer.rows + layer.columns),
        places=_rows_and_columns,
        added=_added,
    )
    return write_padded(padded, adapter, planned, folder, progress)


def read(folder: Path, source: Source, base: Tensors) -> Change:
    """Open a SHiRA adapter. Raises `AdapterError` for one that does more than add at chosen places."""
    opened = peft_folder.PeftFolder(folder, TITLE, PARTS)
    modules = opened.tensors_of(source, base)

    def merge(name: str, before: Tensor) -> tuple[Tensor, int]:
        values, places = opened.read(modules[name])
        _check(f"{folder}: {modules[name]}", before.shape, values, places)
        added = torch.sparse_coo_tensor(
            places.int(), values.float(), before.shape, check_invariants=False
        )
        flat = places[0].long() * before.shape[1] + places[1]
        return before.clone().add_(added), places_moved(flat, values)

    return Additions(list(modules), merge)


def _rank(layers: list[Layer]) -> int:
    """Return the smallest rank that gives every layer room. Raises `AdapterError` if none does."""
    rank, densest = max((-(-one.k // (one.rows + one.columns)), one.tensor) for one in layers)
    for layer in layers:
        most = layer.numel // (layer.rows + layer.columns)
        if rank > most:
            raise AdapterError(
                f"SHiRA gives every layer the same rank r and r·(rows + columns) values: {densest} needs "
                f"r = {rank}, and {layer.tensor} of {layer.rows} × {layer.columns} allows {most}; convert "
                "to supertuning, which has no such limit"
            )
    return rank


def _rows_and_columns(layer: Layer, positions: Tensor) -> Tensor:
    return torch.stack([positions // layer.columns, positions % layer.columns])


def _added(found: Difference) -> Tensor:
    """What `weight += sparse` makes: a sum in the wider of the two dtypes, rounded to the weight's."""
    wide = widened(found.old.dtype)
    return (found.old.to(wide) + found.delta.to(wide)).to(found.old.dtype)


def _check(label: str, shape: torch.Size, values: Tensor, places: Tensor) -> None:
    """Raise `AdapterFileError` unless the places lie in a matrix of this shape."""
    if len(shape) != 2 or values.ndim != 1 or places.shape != (2, len(values)):
        raise AdapterFileError(
            f"{label} has values {tuple(values.shape)} and indices {tuple(places.shape)} for a weight of "
            f"{tuple(shape)}: SHiRA's are (k,), (2, k) and a matrix"
        )
    limits = torch.tensor(shape).unsqueeze(1)
    if bool(((places < 0) | (places >= limits)).any()):
        raise AdapterFileError(
            f"{label} has indices outside its weight of {tuple(shape)}: give the base it was trained on"
        )
